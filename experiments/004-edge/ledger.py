"""The memory ledger against measured peaks: the published recipe at its size, in processes under a device's limit.

    python experiments/004-edge/ledger.py RUN [--checkpoint DIR --name NAME] [--only GLOB ...]

RUN gets base models of random weights (5 GB), a checkpoint on them, and clips of noise; what is there is used again.
With --checkpoint it is that one instead. The ledger's constants are fitted to the two settings "fitted-*"; the others
show what it is worth. NAME-ledger.jsonl, .md and .png, in results beside this script, get a line, a row and a point of
every setting; a setting whose line is there is not measured again.
"""

from __future__ import annotations

import argparse
import json
import logging
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
import transformers

from omni_avsr.build import build_model
from omni_avsr.checkpoint import CONFIG, read_info, save_checkpoint
from omni_avsr.config import (
    AdapterConfig,
    AVHubertConfig,
    LLMConfig,
    LoRAConfig,
    ModelConfig,
    ProjectorConfig,
    WhisperConfig,
    from_mapping,
    to_mapping,
)
from omni_avsr.edge.budget import process_bytes
from omni_avsr.edge.calibrate import write_noise_clip
from omni_avsr.edge.device import device_facts
from omni_avsr.edge.fit import MemoryRun, fit_memory
from omni_avsr.edge.ledger import MemoryConstants, MemoryLedger, WeightFormat, in_format, memory_ledger
from omni_avsr.edge.meter import GIB
from omni_avsr.edge.probe import Figures, Probe, measure
from omni_avsr.edge.request import Request
from omni_avsr.encoders.avhubert import AVHubertEncoder
from omni_avsr.files import write_atomically
from omni_avsr.plots import CURVE_COLORS, new_figure, save_figure
from omni_avsr.provenance import commit, today
from omni_avsr.shapes import shaped_llm, shaped_model, whisper_shape
from omni_avsr.types import Rates, Task

log = logging.getLogger(__name__)

RESULTS = Path(__file__).resolve().parent / "results"
BOARD_GIB = 8.0
LLM, WHISPER = "meta-llama/Llama-3.2-1B", "openai/whisper-medium.en"
MODELS = ("llm", "whisper", "avhubert.pt")
WRITE = "--write"
"""What the process that makes the models is started with."""


@dataclass(frozen=True)
class Setting:
    """A way to run the checkpoint. wide_encoders: they are in float32, not in bfloat16."""

    name: str
    weights: WeightFormat
    request: Request
    wide_encoders: bool = False

    @property
    def is_fitted(self) -> bool:
        return self.name.startswith("fitted")


FINE = Rates(4, 2)
SETTINGS = (
    Setting("fitted-short", "bfloat16", Request(Task.AVSR, FINE, 3.0)),
    Setting("fitted-long", "bfloat16", Request(Task.AVSR, FINE, 30.0)),
    Setting("int8", "int8", Request(Task.AVSR, FINE, 10.0)),
    Setting("nf4", "nf4", Request(Task.AVSR, FINE, 10.0)),
    Setting("int8-coarse-long", "int8", Request(Task.AVSR, Rates(16, 5), 20.0)),
    Setting("nf4-audio-short", "nf4", Request(Task.ASR, FINE, 3.0)),
    Setting("bfloat16-video", "bfloat16", Request(Task.VSR, FINE, 10.0)),
    Setting("int8-5-beams", "int8", Request(Task.AVSR, FINE, 10.0, num_beams=5)),
    Setting("nf4-15-beams-long", "nf4", Request(Task.AVSR, Rates(4, 5), 20.0, num_beams=15)),
    Setting("int8-wide-encoders", "int8", Request(Task.AVSR, FINE, 10.0), wide_encoders=True),
    Setting("float32", "float32", Request(Task.AVSR, FINE, 10.0)),
)
"""At the published size, float32 is what does not fit: it has to be killed."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--checkpoint", type=Path, help="another one than that of the published recipe")
    parser.add_argument("--name", default="published", help="of the result files")
    parser.add_argument("--only", nargs="+", default=["*"], metavar="GLOB", help="settings to measure now")
    parser.add_argument(WRITE, action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    if arguments.write:
        write_models(arguments.run)
        return
    folders = {False: arguments.checkpoint} if arguments.checkpoint else published_checkpoints(arguments.run)
    path = RESULTS / f"{arguments.name}-ledger.jsonl"
    lines = read_lines(path)
    for setting in SETTINGS:
        chosen = any(fnmatchcase(setting.name, glob) for glob in arguments.only)
        if chosen and setting.name not in lines and setting.wide_encoders in folders:
            lines[setting.name] = run_setting(setting, folders[setting.wide_encoders], arguments.run)
            write_atomically(path, "".join(json.dumps(line) + "\n" for line in lines.values()))
    if {setting.name for setting in SETTINGS if setting.is_fitted} <= lines.keys():
        summarize(arguments.name, lines, {wide: read_info(folder).model for wide, folder in folders.items()})


def published_checkpoints(run: Path) -> dict[bool, Path]:
    """The recipe with encoders in bfloat16 and in float32, of random weights, by whether they are wide."""
    folders = {False: run / "checkpoint", True: run / "wide-encoders"}
    if not folders[True].is_dir():
        # In a process of its own: what it has in memory is none of this one's.
        subprocess.run([sys.executable, __file__, str(run), WRITE], check=True)
    return folders


def write_models(run: Path) -> None:
    run.mkdir(parents=True, exist_ok=True)
    llm, whisper, avhubert = (run / name for name in MODELS)
    made = shaped_llm(LLMConfig(LLM, dtype="bfloat16"), seed=1)
    made.model.save_pretrained(llm)
    made.tokenizer.save_pretrained(llm)
    del made
    sizes = whisper_shape(WHISPER)
    sizes.update({"decoder_layers": 1})  # of which nothing is read
    transformers.WhisperModel(sizes).save_pretrained(whisper)
    torch.manual_seed(2)
    torch.save({"model": AVHubertEncoder(AVHubertConfig()).state_dict()}, avhubert)
    config = ModelConfig(
        llm=LLMConfig(str(llm), dtype="bfloat16"),
        audio_encoder=WhisperConfig(str(whisper), dtype="bfloat16"),
        video_encoder=AVHubertConfig(str(avhubert), lora=LoRAConfig(64, 128), dtype="bfloat16"),
        projector=ProjectorConfig(hidden_dim=2048),
        adapters=AdapterConfig("hybrid", 64, 8),
    )
    training = {"domain": "none: random weights", "longest_clip_seconds": 20.0}
    save_checkpoint(run / "checkpoint", build_model(config, seed=3), {}, training, torch.float16)
    partial = run / "wide-encoders.partial"
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(run / "checkpoint", partial)
    settings = json.loads((partial / CONFIG).read_text())
    for encoder in ("audio_encoder", "video_encoder"):
        settings["model"][encoder]["dtype"] = "float32"
    (partial / CONFIG).write_text(json.dumps(settings, indent=2))
    partial.rename(run / "wide-encoders")


def read_lines(path: Path) -> dict[str, dict[str, Any]]:
    if not path.is_file():
        return {}
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return {line["name"]: line for line in lines}


def run_setting(setting: Setting, checkpoint: Path, run: Path) -> dict[str, Any]:
    """Measure a setting in a process under the limit of the board."""
    log.info("%s: %s", setting.name, setting.request)
    dtype, quantization = in_format(setting.weights, read_info(checkpoint).model.llm)
    (run / "clips").mkdir(parents=True, exist_ok=True)
    clip = write_noise_clip(run / "clips", setting.request.seconds)
    probe = Probe(
        setting.request, clip, checkpoint=checkpoint.resolve(), llm_dtype=dtype, quantization=quantization or "none"
    )
    outcome, figures = measure(probe, process_bytes(BOARD_GIB))
    log.info("%s: %.2f GiB in %.0f s%s", setting.name, outcome.peak / GIB, outcome.seconds, ", killed" * outcome.killed)
    return {
        "name": setting.name,
        "weights": setting.weights,
        "wide_encoders": setting.wide_encoders,
        "request": to_mapping(setting.request),
        "limit": outcome.limit,
        "killed": outcome.killed,
        "peak": outcome.peak if figures is None else max(outcome.peak, figures.peak),
        "seconds": round(outcome.seconds, 1),
        "figures": None if figures is None else to_mapping(figures),
        "commit": commit(),
        "date": today(),
        "device": device_facts(),
    }


@dataclass(frozen=True)
class Row:
    """A setting with what was measured and what the ledger gives for it, in bytes; by part at the fullest stage."""

    setting: Setting
    line: dict[str, Any]
    predicted: int
    fullest: str


def summarize(name: str, lines: dict[str, dict[str, Any]], models: dict[bool, ModelConfig]) -> None:
    """Fit the constants to the two settings, and compare all others."""
    outlines = {
        wide: shaped_model(replace(model, llm=replace(model.llm, quantization=None)), 0, "meta")
        for wide, model in models.items()
    }

    def ledger_of(setting: Setting) -> MemoryLedger:
        outline = outlines[setting.wide_encoders]
        return memory_ledger(outline, *in_format(setting.weights, outline.config.llm))

    measured = [setting for setting in SETTINGS if setting.name in lines]
    runs = [MemoryRun(ledger_of(s), s.request, lines[s.name]["peak"]) for s in measured if s.is_fitted]
    figures = [from_mapping(Figures, line["figures"], name) for line in lines.values() if line["figures"]]
    constants = fit_memory(max(one.libraries for one in figures), runs)
    rows = []
    for setting in measured:
        memory = ledger_of(setting).transcribing(setting.request, constants)
        rows.append(Row(setting, lines[setting.name], memory.peak, memory.fullest))
    write_atomically(RESULTS / f"{name}-ledger.md", table(rows, constants))
    plot(RESULTS / f"{name}-ledger.png", rows)


def table(rows: Sequence[Row], constants: MemoryConstants) -> str:
    first = rows[0].line
    limit = first["limit"]
    errors = [abs(row.predicted / row.line["peak"] - 1) for row in rows if _tells(row)]
    parts = [
        "# Peak memory of a process, measured and foretold",
        "",
        f"- limit: {limit / GIB:.2f} GiB, what a board of {BOARD_GIB:g} GB leaves to a process",
        f"- constants, from the two fitted settings: libraries {constants.libraries / 2**20:.0f} MiB, overhead "
        f"{constants.overhead / 2**20:.0f} MiB, {constants.scale:.2f} bytes for each byte of activations",
        f"- furthest off of {len(errors)} other settings: {max(errors):.1%}" if errors else "- no other setting yet",
        f"- {first['device']['cpu']}, {first['figures']['threads']} thread, commit {first['commit']}, {first['date']}",
        "",
        "| setting | LLM | encoders | task | rates | clip | beams | measured | ledger | difference | fullest |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        setting, request, line = row.setting, row.setting.request, row.line
        measured = f"{line['peak'] / GIB:.2f} GiB" + (" (killed)" if line["killed"] else "")
        difference = "" if line["killed"] else f"{row.predicted / line['peak'] - 1:+.1%}"
        cells = (
            setting.name,
            setting.weights,
            "float32" if setting.wide_encoders else "as configured",
            request.task.upper(),
            request.rates.label(request.task),
            f"{request.seconds:g} s",
            str(request.num_beams),
            measured,
            f"{row.predicted / GIB:.2f} GiB",
            difference,
            row.fullest,
        )
        parts.append(f"| {' | '.join(cells)} |")
    return "\n".join([*parts, ""])


def _tells(row: Row) -> bool:
    return not row.setting.is_fitted and not row.line["killed"]


def plot(path: Path, rows: Sequence[Row]) -> None:
    figure, axes = new_figure("Peak memory of a process")
    shown = [row for row in rows if not row.line["killed"]]
    top = 1.1 * max(max(row.predicted, row.line["peak"]) for row in shown) / GIB
    axes.plot([0, top], [0, top], color="#999999", linewidth=1)
    axes.fill_between([0, top], [0, 0.9 * top], [0, 1.1 * top], color="#999999", alpha=0.2, linewidth=0, label="10 %")
    for color, fitted, label in ((CURVE_COLORS[1], True, "fitted"), (CURVE_COLORS[0], False, "foretold")):
        points = [row for row in shown if row.setting.is_fitted is fitted]
        x, y = [row.line["peak"] / GIB for row in points], [row.predicted / GIB for row in points]
        axes.plot(x, y, "o", color=color, label=label)
    axes.set(xlabel="measured (GiB)", ylabel="ledger (GiB)", xlim=(0, top), ylim=(0, top))
    axes.legend()
    save_figure(path, figure)


if __name__ == "__main__":
    main()
