"""Error rates, memory and speed of the GRID checkpoint with its LLM in floats, int8 and NF4, merged and not.

    python experiments/004-edge/quantization.py PREPARED [--clips N]

PREPARED: the folder that holds grid/manifest.jsonl. Each form of the weights does each task on the test clips in a
process of its own, on one thread of the CPU, one clip at a time, at the lowest rates of the checkpoint.
results/quantization.jsonl beside this script gets a line for each; quantization.md is made of them. What stands there
is not measured again. Seconds are of a core (CPU time), which other work on the machine changes little.
"""

from __future__ import annotations

import argparse
import json
import logging
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.progress import track

from omni_avsr.checkpoint import load_checkpoint
from omni_avsr.compression import all_rates
from omni_avsr.config import DType, QuantizationChoice
from omni_avsr.data.dataset import FileReader
from omni_avsr.data.manifest import read_manifest
from omni_avsr.edge.meter import GIB, resident
from omni_avsr.features import prepare_video, prepare_waveform
from omni_avsr.files import write_atomically
from omni_avsr.metrics import score
from omni_avsr.model import OmniAVSR
from omni_avsr.provenance import commit, today
from omni_avsr.types import Clip, Features, Hypothesis, Modality, Task

log = logging.getLogger(__name__)

HERE = Path(__file__).resolve().parent
CHECKPOINT = HERE.parent / "001-grid-s1" / "checkpoint"
RESULTS = HERE / "results" / "quantization.jsonl"
SEED = 7
"""Of the bootstrap; nothing else here is random."""
MAX_NEW_TOKENS = 16
WEIGHTS: Mapping[str, tuple[DType, QuantizationChoice]] = {
    "float32": ("float32", "none"),
    "bfloat16": ("bfloat16", "none"),
    "int8": ("bfloat16", "int8"),
    "nf4": ("bfloat16", "nf4"),
}
"""Form of the LLM's weights -> dtype of the rest and of the activations, quantisation."""


@dataclass(frozen=True)
class Case:
    """What one process measures."""

    weights: str
    merged: bool
    task: Task


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("prepared", type=Path)
    parser.add_argument("--clips", type=int, default=80, help="of the test set (80, all)")
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--case", help=argparse.SUPPRESS)
    options = parser.parse_args()
    manifest = options.prepared / "grid" / "manifest.jsonl"
    clips = [clip for clip in read_manifest(manifest) if clip.split == "test"][: options.clips]
    if options.case is not None:
        sys.stdout.write(json.dumps(measure(read_case(options.case), clips)) + "\n")
        return
    lines = [json.loads(line) for line in options.output.read_text().splitlines()] if options.output.is_file() else []
    done = {(read_case(json.dumps(line["case"])), line["num_clips"]) for line in lines}
    for case in track([case for case in cases() if (case, len(clips)) not in done], "measuring"):
        command = [sys.executable, __file__, str(options.prepared), "--clips", str(options.clips)]
        child = subprocess.run([*command, "--case", json.dumps(asdict(case))], stdout=subprocess.PIPE, check=True)
        lines.append(json.loads(child.stdout.splitlines()[-1]))
        write_atomically(options.output, "".join(json.dumps(line) + "\n" for line in lines))
    write_atomically(options.output.with_suffix(".md"), table(lines))


def cases() -> Iterator[Case]:
    for merged in (False, True):
        for weights in WEIGHTS:
            for task in Task:
                yield Case(weights, merged, task)


def read_case(text: str) -> Case:
    values = json.loads(text)
    return Case(values["weights"], values["merged"], Task(values["task"]))


def measure(case: Case, clips: Sequence[Clip]) -> dict[str, Any]:
    """One line of the results."""
    torch.set_num_threads(1)
    libraries = resident().peak
    dtype, quantization = WEIGHTS[case.weights]
    start = time.process_time()
    model = load_checkpoint(CHECKPOINT, dtype, quantization, case.task if case.merged else None)
    load_seconds, loaded = time.process_time() - start, resident().peak
    transcribed(model, clips[0], case.task)  # a warm-up
    rows = [transcribed(model, clip, case.task) for clip in clips]
    return {
        "case": asdict(case),
        "commit": commit(),
        "date": today(),
        "seed": SEED,
        "num_clips": len(clips),
        "rates": min(all_rates(model.config.compression)).label(case.task),
        "llm_bytes": sum(value.nbytes for value in (*model.llm.parameters(), *model.llm.buffers())),
        "libraries_bytes": libraries,
        "loaded_bytes": loaded,
        "peak_bytes": resident().peak,
        "load_seconds": load_seconds,
        "clips": rows,
    }


@torch.no_grad()
def transcribed(model: OmniAVSR, clip: Clip, task: Task) -> dict[str, Any]:
    """The text of a clip, and how long its parts took."""
    rates, inputs = min(all_rates(model.config.compression)), read_inputs(model, clip, task)
    start = time.process_time()
    features = model.encode(inputs)
    encoded = time.process_time()
    ids = model.generate_ids(features, task, rates, max_new_tokens=MAX_NEW_TOKENS)
    written = time.process_time()
    return {
        "id": clip.id,
        "reference": clip.text,
        "text": model.text.decode(ids[0]).strip(),
        "tokens": ids.shape[1],
        "clip_seconds": clip.seconds,
        "encode_seconds": encoded - start,
        "generate_seconds": written - encoded,
    }


def read_inputs(model: OmniAVSR, clip: Clip, task: Task) -> dict[Modality, Features]:
    reader, inputs = FileReader(), {}
    for modality in task.modalities:
        values = reader.waveform(clip) if modality is Modality.AUDIO else reader.video(clip)
        assert values is not None
        audio = modality is Modality.AUDIO
        inputs[modality] = Features.pad(
            [prepare_waveform(values, model.config.waveform) if audio else prepare_video(values)]
        )
    return inputs


def table(lines: Sequence[Mapping[str, Any]]) -> str:
    head = ["weights", "merged", "task", "WER, %", "CER, %", "LLM, MiB", "peak, GiB", "tokens/s", "real-time factor"]
    rows = [head, ["---", "---", "---", *["---:"] * 6], *(row_of(line) for line in lines)]
    origin = {key: ", ".join(sorted({str(line[key]) for line in lines})) for key in ("commit", "date", "num_clips")}
    return (
        "# The GRID checkpoint with its LLM in 8 and 4 bits\n\n"
        + "\n".join("| " + " | ".join(row) + " |" for row in rows)
        + "\n\nWER and CER with the bounds of 95 % of bootstrap resamples. LLM: weights with embeddings and adapters. "
        "Peak: VmHWM of the whole process, libraries included. Tokens: written by the LLM in a second of a core, the "
        "reading of the prompt included. Real-time factor: seconds of a core, encoders included, for a second of "
        f"speech. {origin['num_clips']} test clips; commit {origin['commit']}; {origin['date']}.\n"
    )


def row_of(line: Mapping[str, Any]) -> list[str]:
    case, clips = read_case(json.dumps(line["case"])), line["clips"]
    hypotheses = [Hypothesis(c["id"], case.task, line["rates"], c["reference"], c["text"], "test") for c in clips]
    [found] = score(hypotheses, seed=SEED)
    seconds = {key: sum(c[f"{key}_seconds"] for c in clips) for key in ("clip", "encode", "generate")}

    def percent(value: float, interval: Any) -> str:
        return f"{100 * value:.2f} [{100 * interval.low:.2f}, {100 * interval.high:.2f}]"

    return [
        case.weights,
        "yes" if case.merged else "no",
        f"{case.task.upper()} {line['rates']}",
        percent(found.wer, found.wer_interval),
        percent(found.cer, found.cer_interval),
        f"{line['llm_bytes'] / 1024**2:.0f}",
        f"{line['peak_bytes'] / GIB:.2f}",
        f"{sum(c['tokens'] for c in clips) / seconds['generate']:.1f}",
        f"{(seconds['encode'] + seconds['generate']) / seconds['clip']:.3f}",
    ]


if __name__ == "__main__":
    main()
