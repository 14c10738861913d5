"""Exported encoders against torch's, on GRID: how far off, word error rates, seconds and memory.

    python experiments/004-edge/export.py PREPARED [--clips N] [--exports FOLDER]

PREPARED: the folder that holds grid/manifest.jsonl. FOLDER keeps what is exported (none: it is made for the run).
results/export.jsonl beside this script gets a line for each figure, export.md is made of them. One thread, on the CPU,
one clip at a time; encoders run in processes of their own.
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from omni_avsr.bootstrap import bootstrap_interval
from omni_avsr.build import build_encoders
from omni_avsr.checkpoint import checkpoint_sha256, load_checkpoint, read_info
from omni_avsr.data.dataset import FileReader
from omni_avsr.data.manifest import read_manifest
from omni_avsr.edge.meter import resident
from omni_avsr.encoders.exported import ExportedParts, load_exported
from omni_avsr.error_counts import count_errors, error_rate
from omni_avsr.export import export_checkpoint
from omni_avsr.features import prepare_video
from omni_avsr.files import write_atomically
from omni_avsr.provenance import commit, today
from omni_avsr.types import Clip, Features, Hypothesis, Modality, Rates, Task

log = logging.getLogger(__name__)

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "export.jsonl"
CHECKPOINT = HERE.parent / "001-grid-s1" / "checkpoint"
TORCH, ONNX, INT8 = "torch", "onnx", "onnx int8"
QUANTIZATIONS = {ONNX: "none", INT8: "int8"}
SETTINGS = ((Task.ASR, Rates(4, 2)), (Task.VSR, Rates(4, 2)), (Task.AVSR, Rates(4, 2)), (Task.AVSR, Rates(16, 5)))
SEED = 7
"""Of the intervals' resampling."""
MAX_NEW_TOKENS = 32
NUM_REPETITIONS = 20
MIB = 1024**2


@dataclass(frozen=True)
class Job:
    """What one process measures. encoders: an export's folder, None for torch's own."""

    encoders: Path | None
    manifest: Path
    num_clips: int

    def clips(self) -> list[Clip]:
        return [clip for clip in read_manifest(self.manifest) if clip.split == "test"][: self.num_clips]


@dataclass(frozen=True)
class Recognized:
    """By modality the features of every clip [1, T, D]; by setting the hypotheses."""

    features: Mapping[Modality, Sequence[Tensor]]
    hypotheses: Sequence[Sequence[Hypothesis]]


def main() -> None:
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s")
    log.setLevel(logging.INFO)  # the exporter tells every rewrite of a graph at this level
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("prepared", type=Path)
    parser.add_argument("--clips", type=int, default=80, help="of the test set (80, all)")
    parser.add_argument("--exports", type=Path, metavar="FOLDER", help="where to leave the exports")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    lines: list[dict[str, Any]] = []
    with ExitStack() as stack:
        exports = options.exports or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for values in measure(exports, options.prepared / "grid" / "manifest.jsonl", options.clips):
            lines.append({"commit": commit(), "date": today(), "seed": SEED, **values})
            log.info("%s", values)
            write_atomically(options.results, "".join(json.dumps(line) + "\n" for line in lines))
    write_atomically(options.results.with_suffix(".md"), table(lines))


def measure(exports: Path, manifest: Path, num_clips: int) -> Iterator[dict[str, Any]]:
    folders: dict[str, Path | None] = {TORCH: None}
    for encoders, quantization in QUANTIZATIONS.items():
        folders[encoders] = exports / quantization
        exported = export_checkpoint(CHECKPOINT, exports / quantization, quantization)  # type: ignore[arg-type]
        for parts in exported.parts.values():
            yield from graph_lines(encoders, exports / quantization, parts)
    jobs = {encoders: Job(folder, manifest, num_clips) for encoders, folder in folders.items()}
    for encoders, job in jobs.items():
        for values in in_own_process(cost, job):
            yield {"kind": "cost", "encoders": encoders, **values}
    own = None
    for encoders, job in jobs.items():
        found = in_own_process(recognize, job)
        own = own or found
        yield from feature_lines(encoders, found, own)
        yield from error_lines(encoders, found, own)


def in_own_process(run: Callable[[Job], Any], job: Job) -> Any:
    """Figures of memory are of a whole process."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(run, job).result()


def graph_lines(encoders: str, folder: Path, parts: ExportedParts) -> Iterator[dict[str, Any]]:
    """The files, and how far off they were on noise when they were written."""
    for graph in (parts.encoder, parts.ctc, *parts.tokens.values()):
        if graph is not None:
            size = round((folder / graph.file).stat().st_size / MIB, 2)
            values = {"file": graph.file, "mib": size, "max_error": graph.max_error}
            yield {"kind": "graph", "encoders": encoders, **values}


def cost(job: Job) -> list[dict[str, Any]]:
    """What the encoders alone take: memory from before they are there, and seconds for the first clip."""
    torch.set_num_threads(1)
    clip = job.clips()[0]
    inputs = {modality: values_of(clip, modality) for modality in Modality}
    reset_peak()
    before, start = resident().now, time.perf_counter()
    if job.encoders is None:
        # What the checkpoint holds of them makes no difference to what they take.
        encoders: Any = build_encoders(read_info(CHECKPOINT).model, seed=0).eval().encoders
    else:
        encoders = load_exported(job.encoders, checkpoint_sha256(CHECKPOINT))
    elapsed = round(time.perf_counter() - start, 2)
    loaded = {"load_seconds": elapsed, "load_mib": round((resident().peak - before) / MIB)}
    lines = [{"modality": str(modality), **seconds(encoders[modality], inputs[modality])} for modality in Modality]
    peak, held = resident().peak - before, resident().now - before
    return [*lines, loaded | {"peak_mib": round(peak / MIB), "held_mib": round(held / MIB)}]


@torch.no_grad()
def seconds(encoder: Callable[[Features], Features], inputs: Features) -> dict[str, float]:
    """Of the processor, which other work on the machine does not lengthen, and of the clock."""
    encoder(inputs)
    runs = []
    for _ in range(NUM_REPETITIONS):
        clock, processor = time.perf_counter(), time.process_time()
        encoder(inputs)
        runs.append((time.process_time() - processor, time.perf_counter() - clock))
    names = ("processor_seconds", "clock_seconds")
    return {name: round(median(run[i] for run in runs), 4) for i, name in enumerate(names)}


@torch.no_grad()
def recognize(job: Job) -> Recognized:
    torch.set_num_threads(1)
    model, clips = load_checkpoint(CHECKPOINT, encoders=job.encoders), job.clips()
    features = [model.encode({modality: values_of(clip, modality) for modality in Modality}) for clip in clips]
    hypotheses = []
    for task, rates in SETTINGS:
        texts = [model.generate(part, task, rates, max_new_tokens=MAX_NEW_TOKENS)[0] for part in features]
        hypotheses.append(
            [
                Hypothesis(clip.id, task, rates.label(task), clip.text, text)
                for clip, text in zip(clips, texts, strict=True)
            ]
        )
    return Recognized({m: [part[m].values for part in features] for m in Modality}, hypotheses)


def values_of(clip: Clip, modality: Modality) -> Features:
    if modality is Modality.AUDIO:
        return Features.pad([FileReader().waveform(clip)])
    return Features.pad([prepare_video(FileReader().video(clip))])


def feature_lines(encoders: str, found: Recognized, own: Recognized) -> Iterator[dict[str, Any]]:
    """How far the features are from torch's: at most, and as the length of the difference."""
    for modality in Modality:
        pairs = list(zip(found.features[modality], own.features[modality], strict=True))
        largest = max(float((a - b).abs().max()) for a, b in pairs)
        relative = sum(float((a - b).norm() / b.norm()) for a, b in pairs) / len(pairs)
        values = {"clips": len(pairs), "max_error": largest, "relative_error": relative}
        yield {"kind": "features", "encoders": encoders, "modality": str(modality), **values}


def error_lines(encoders: str, found: Recognized, own: Recognized) -> Iterator[dict[str, Any]]:
    for (task, rates), hypotheses, torchs in zip(SETTINGS, found.hypotheses, own.hypotheses, strict=True):
        counts = count_errors(hypotheses)
        interval = bootstrap_interval(counts, seed=SEED)
        yield {
            "kind": "wer",
            "encoders": encoders,
            "task": str(task),
            "rates": rates.label(task),
            "clips": len(hypotheses),
            "wer": error_rate(counts, "words"),
            "interval": [interval.low, interval.high],
            "other_texts": sum(a.text != b.text for a, b in zip(hypotheses, torchs, strict=True)),
        }


def reset_peak() -> None:
    """What was resident at most counts from now on."""
    Path("/proc/self/clear_refs").write_text("5")


def table(lines: Sequence[Mapping[str, Any]]) -> str:
    """Markdown: a row for each kind of encoders."""
    wers = [f"{task.upper()} {rates.label(task)}" for task, rates in SETTINGS]
    head = ["encoders", "files MiB", "audio ms", "video ms", "peak MiB", "audio off", "video off", *wers, "other texts"]
    rows = []
    for encoders in (TORCH, ONNX, INT8):
        of: dict[str, list[Mapping[str, Any]]] = {}
        for line in lines:
            if line["encoders"] == encoders:
                of.setdefault(line["kind"], []).append(line)
        size = sum(line["mib"] for line in of.get("graph", []) if line["file"].endswith("_encoder.onnx"))
        times = [f"{1000 * line['processor_seconds']:.0f}" for line in of["cost"] if "modality" in line]
        [peak] = [line["peak_mib"] for line in of["cost"] if "peak_mib" in line]
        errors = [f"{line['max_error']:.1e} ({line['relative_error']:.1e})" for line in of["features"]]
        rates = [f"{line['wer']:.1%}" for line in of["wer"]]
        other = sum(line["other_texts"] for line in of["wer"])
        total = sum(line["clips"] for line in of["wer"])
        rows.append(
            [encoders, f"{size:.0f}" if size else "", *times, f"{peak:.0f}", *errors, *rates, f"{other}/{total}"]
        )
    text = "\n".join("| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows])
    return text + "\n"


if __name__ == "__main__":
    main()
