"""Word error rate against measured real-time factor: rates fitted to each utterance against fixed ones, on GRID.

    python experiments/004-edge/elastic.py PREPARED NOISE BOARD [--clips N]

PREPARED: the folder that holds grid/manifest.jsonl. NOISE: the folder of babble_test.flac. BOARD: what `omni-avsr
calibrate-device` wrote on this machine. Of every four test clips one is clean, one in babble, one without a picture and
one without a sound, as it may happen on a device. results/elastic.jsonl beside this script gets a line for each
setting; elastic.md and elastic.png are made of them. One thread, on the CPU, one utterance at a time.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import track

from omni_avsr.checkpoint import read_info
from omni_avsr.compression import all_rates, task_rates
from omni_avsr.config import from_mapping
from omni_avsr.data.config import DataConfig
from omni_avsr.data.dataset import FileReader
from omni_avsr.data.noise import NoiseSource
from omni_avsr.edge.device import Device, read_device
from omni_avsr.edge.elastic import ElasticOptions
from omni_avsr.edge.plan import Budget
from omni_avsr.error_counts import count_errors, error_rate
from omni_avsr.files import write_atomically
from omni_avsr.plots import CURVE_COLORS, new_figure, save_figure
from omni_avsr.provenance import commit, today
from omni_avsr.recording import Recording
from omni_avsr.transcribe import TranscribeOptions, Transcriber, load
from omni_avsr.types import Clip, Hypothesis, Task

log = logging.getLogger(__name__)

HERE = Path(__file__).resolve().parent
CHECKPOINT = HERE.parent / "001-grid-s1" / "checkpoint"
RESULTS = HERE / "results" / "elastic.jsonl"
SEED = 7
SNR_DB = 0.0
CONDITIONS = ("clean", "babble", "no picture", "no sound")
LATENCIES = (0.3, 0.35, 0.38, 0.41, 0.44, 0.46, 0.48, 0.6)
"""Seconds from the end of an utterance of three seconds to its transcript: below what any setting takes, and above."""
TOKENS_PER_SECOND = 7 / 3
"""Six words of one token each and the end, in three seconds."""
MAX_NEW_TOKENS = 16
ANY_MEMORY = 1 << 60


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("prepared", type=Path)
    parser.add_argument("noise", type=Path)
    parser.add_argument("board", type=Path)
    parser.add_argument("--clips", type=int, default=80, help="of the test set (80, all)")
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    test_set = {"manifest": options.prepared / "grid" / "manifest.jsonl", "noisy": True}
    data = from_mapping(DataConfig, {"test_sets": {"grid": test_set}, "test_noise": options.noise / "babble_test.flac"})
    clips = data.read_test_set("grid")[: options.clips]
    noise = data.read_test_noise("grid")
    assert noise is not None
    utterances = [utterance(number, clip, noise) for number, clip in enumerate(clips)]
    transcriber = load(CHECKPOINT)
    lines = []
    for name, settings in settings_of(transcriber, read_device(options.board)):
        list(transcribed(transcriber, utterances[:4], settings))  # a warm-up; a controller describes the model once
        rows = list(track(transcribed(transcriber, utterances, settings), name, len(utterances)))
        lines.append({"setting": name, "commit": commit(), "date": today(), "seed": SEED, "clips": rows})
        options.output.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(options.output, "".join(json.dumps(line) + "\n" for line in lines))
    summarize(lines, options.output.parent)


def utterance(number: int, clip: Clip, noise: NoiseSource) -> tuple[Clip, str, Recording]:
    """A clip in one of the conditions, as a microphone and a camera would give it."""
    reader, condition = FileReader(), CONDITIONS[number % len(CONDITIONS)]
    sound, pictures = reader.waveform(clip), reader.video(clip)
    if condition == "babble":
        sound = noise.mix(sound, SNR_DB, torch.Generator().manual_seed(SEED + number))
    if condition == "no sound":
        sound = torch.zeros_like(sound)
    if condition == "no picture":
        pictures = torch.zeros_like(pictures)
    return clip, condition, Recording(Path(clip.id), Task.AVSR, sound.numpy(), pictures.numpy())


def settings_of(transcriber: Transcriber, board: Device) -> Iterator[tuple[str, dict[str, Any]]]:
    """Fixed tasks and rates, then targets of time."""
    compression = transcriber.model.config.compression
    for rates in all_rates(compression):
        yield f"avsr {rates.label(Task.AVSR)}", {"task": Task.AVSR, "rates": rates}
    for task in (Task.ASR, Task.VSR):
        for rates in task_rates(compression, task):
            yield f"{task} {rates.label(task)}", {"task": task, "rates": rates}
    for latency in LATENCIES:
        elastic = ElasticOptions(Budget(ANY_MEMORY, latency), board, tokens_per_second=TOKENS_PER_SECOND)
        yield f"within {latency:g} s", {"elastic": elastic}


def transcribed(
    transcriber: Transcriber, utterances: Sequence[tuple[Clip, str, Recording]], settings: Mapping[str, Any]
) -> Iterator[dict[str, Any]]:
    options = TranscribeOptions(**settings, max_new_tokens=MAX_NEW_TOKENS, batch_size=1)
    for clip, condition, recording in utterances:
        given = recording if "elastic" in settings else reduced(recording, options.task)
        start = time.perf_counter()
        found = transcriber.of_recording(given, options)
        seconds = time.perf_counter() - start
        yield {
            "id": clip.id,
            "condition": condition,
            "reference": clip.text,
            "text": found.text,
            "task": found.task,
            "rates": found.rates.label(found.task),
            "seconds": seconds,
            "clip_seconds": recording.seconds,
            "notes": found.notes,
        }


def reduced(recording: Recording, task: Any) -> Recording:
    sound = recording.waveform if task is not Task.VSR else None
    return Recording(recording.path, task, sound, recording.crops if task is not Task.ASR else None)


def summarize(lines: Sequence[Mapping[str, Any]], folder: Path) -> None:
    info, last = read_info(CHECKPOINT), lines[-1]
    head = ["setting", "real-time factor", "slowest, s", "WER, %", *(f"{c}, %" for c in CONDITIONS), "chosen"]
    rows = [head, ["---"] * len(head), *(row_of(line) for line in lines)]
    table = "\n".join("| " + " | ".join(row) + " |" for row in rows)
    made = f"commit {last['commit']}, {last['date']}, seed {last['seed']}"
    said = f"Made by `elastic.py` ({made}) with the checkpoint of {info.training.get('domain', 'no stated domain')}."
    write_atomically(folder / "elastic.md", f"{said}\n\n{table}\n")
    figure, axes = new_figure("")
    for color, prefix, label in zip(
        CURVE_COLORS, ("avsr", "asr", "vsr", "within"), ("AVSR", "ASR", "VSR", "fitted"), strict=False
    ):
        own = [line for line in lines if line["setting"].startswith(prefix)]
        x, y = [factor(line) for line in own], [100 * rate(line["clips"]) for line in own]
        axes.plot(x, y, marker="o", linestyle="-" if prefix == "within" else "", color=color, label=label)
        for number, (line, *at) in enumerate(zip(own, x, y, strict=True)):
            # Targets of time lie close to each other: above and below by turns.
            shift = (2, -12 - 8 * (number // 2 % 2)) if prefix == "within" and number % 2 else (2, 5)
            axes.annotate(line["setting"].split(" ", 1)[1], at, xytext=shift, textcoords="offset points", fontsize=7)
    axes.set(xlabel="real-time factor (seconds per second)", ylabel="WER (%)", ylim=(0, None))
    axes.legend(loc="center right")
    save_figure(folder / "elastic.png", figure)


def factor(line: Mapping[str, Any]) -> float:
    return sum(row["seconds"] for row in line["clips"]) / sum(row["clip_seconds"] for row in line["clips"])


def rate(rows: Sequence[Mapping[str, Any]]) -> float:
    counts = count_errors([Hypothesis(row["id"], Task.ASR, "", row["reference"], row["text"]) for row in rows])
    return error_rate(counts, "words") if rows else float("nan")


def row_of(line: Mapping[str, Any]) -> list[str]:
    clips = line["clips"]
    by_condition = [100 * rate([row for row in clips if row["condition"] == condition]) for condition in CONDITIONS]
    chosen = Counter(f"{row['task']} {row['rates']}" for row in clips)
    return [
        line["setting"],
        f"{factor(line):.3f}",
        f"{np.max([row['seconds'] for row in clips]):.2f}",
        f"{100 * rate(clips):.1f}",
        *(f"{value:.1f}" for value in by_condition),
        ", ".join(f"{name}: {count}" for name, count in chosen.most_common()),
    ]


if __name__ == "__main__":
    main()
