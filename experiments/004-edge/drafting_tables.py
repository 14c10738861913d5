"""What the lines of drafting.py say: tables and plots."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from omni_avsr.error_counts import count_errors, wer
from omni_avsr.files import write_atomically
from omni_avsr.plots import CURVE_COLORS, new_figure, save_figure
from omni_avsr.types import Hypothesis, Task

Line = dict[str, Any]


def read_lines(path: Path) -> list[Line]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def summarize(lines: Mapping[str, Sequence[Line]], folder: Path) -> None:
    """Write drafting.md and plots into ``folder``; ``lines`` by the part of the measurement."""
    sections = [
        section("Clip by clip", SINGLE_HEAD, map(single_row, lines["single"])),
        section("In babble, batches of 8", NOISY_HEAD, map(noisy_row, lines["noisy"])),
        section("Relaxed", RELAXED_HEAD, map(relaxed_row, lines["relaxed"])),
        section("Four clips joined, cut at pauses", JOINED_HEAD, map(joined_row, lines["joined"])),
        section("Beams", BEAMS_HEAD, map(beams_row, lines["beams"])),
    ]
    made = sorted({f"commit {line['commit']}, {line['date']}" for part in lines.values() for line in part})
    note = (
        f"Means over clips; one thread on the CPU; {'; '.join(made)}. A prefill is the first pass of greedy search.\n"
    )
    write_atomically(folder / "drafting.md", "\n".join([note, *(part for part in sections if part)]))
    if lines["single"]:
        plot_times(folder / "drafting-time.png", lines["single"])
    if lines["relaxed"]:
        plot_relaxed(folder / "drafting-relaxed.png", lines["relaxed"])


SINGLE_HEAD = (
    *("LLM in", "task", "rates", "clips", "passes, greedy", "drafted", "ratio", "prefill, ms", "after it, greedy"),
    *("drafted", "ratio", "whole decode, greedy", "drafted", "ratio", "encoders, ms", "WER, %", "drafted", "other ids"),
)
NOISY_HEAD = (
    *("LLM in", "task", "SNR, dB", "clips", "WER, %", "passes, greedy", "drafted", "by audio", "by video"),
    *("at best of both", "other ids"),
)
RELAXED_HEAD = ("task", "SNR, dB", "threshold", "clips", "passes", "WER, %")
JOINED_HEAD = (
    *("task", "pieces at a time", "recordings", "passes, greedy", "drafted", "decoding, s, greedy", "drafted", "ratio"),
    *("with encoders, s, greedy", "drafted", "ratio", "WER, %", "other texts"),
)
BEAMS_HEAD = ("clips at once", "beams", "searches", "s, transformers' own", "shared prompt", "ratio", "other ids")


def section(title: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    body = ["| " + " | ".join(row) + " |" for row in rows]
    if not body:
        return ""
    return "\n".join([f"## {title}\n", "| " + " | ".join(head) + " |", "|" + "---|" * len(head), *body, ""])


def mean(line: Line, key: str) -> float:
    return float(np.mean([clip[key] for clip in line["clips"]]))


def differing(line: Line) -> str:
    return f"{sum(not clip['same'] for clip in line['clips'])} of {len(line['clips'])}"


def error_rate(line: Line, key: str = "text") -> str:
    rows = [Hypothesis(clip["id"], Task.ASR, "", clip["reference"], clip[key]) for clip in line["clips"]]
    return f"{100 * wer(count_errors(rows)):.1f}"


def times(line: Line) -> dict[str, float]:
    """Mean milliseconds of a clip. A prefill is the first pass of greedy search, in both."""
    prefill, greedy, drafted = (1000 * mean(line, f"{name}_seconds") for name in ("greedy_first", "greedy", "drafted"))
    return {"prefill": prefill, "greedy": greedy, "drafted": drafted}


def single_row(line: Line) -> list[str]:
    passes = [mean(line, f"{name}_passes") for name in ("greedy", "drafted")]
    ms = times(line)
    after = [ms[name] - ms["prefill"] for name in ("greedy", "drafted")]
    return [
        *(line["weights"], line["task"].upper(), line["rates"], str(len(line["clips"]))),
        *(f"{passes[0]:.2f}", f"{passes[1]:.2f}", f"{passes[0] / passes[1]:.1f}"),
        *(f"{ms['prefill']:.0f}", f"{after[0]:.0f}", f"{after[1]:.0f}", f"{after[0] / after[1]:.1f}"),
        *(f"{ms['greedy']:.0f}", f"{ms['drafted']:.0f}", f"{ms['greedy'] / ms['drafted']:.1f}"),
        f"{1000 * mean(line, 'encode_seconds'):.0f}",
        *(error_rate(line, "greedy_text"), error_rate(line, "drafted_text"), differing(line)),
    ]


def noisy_row(line: Line) -> list[str]:
    both = [min(c["audio_passes"], c["video_passes"]) for c in line["clips"] if "audio_passes" in c]
    streams = [f"{mean(line, name):.2f}" for name in ("audio_passes", "video_passes")] if both else ["", ""]
    return [
        *(line["weights"], line["task"].upper(), level(line), str(len(line["clips"])), error_rate(line)),
        *(f"{mean(line, 'greedy_passes'):.2f}", f"{mean(line, 'passes'):.2f}", *streams),
        *(f"{np.mean(both):.2f}" if both else "", differing(line)),
    ]


def level(line: Line) -> str:
    return "clean" if line["snr_db"] is None else f"{line['snr_db']:g}"


def relaxed_row(line: Line) -> list[str]:
    threshold = "lossless" if line["threshold"] is None else f"{line['threshold']:g}"
    clips = str(len(line["clips"]))
    return [line["task"].upper(), level(line), threshold, clips, f"{mean(line, 'passes'):.2f}", error_rate(line)]


def joined_row(line: Line) -> list[str]:
    cells = [line["task"].upper(), str(line["batch_size"]), str(len(line["clips"]))]
    cells += [f"{mean(line, f'{name}_passes'):.1f}" for name in ("greedy", "drafted")]
    for kind in ("seconds", "whole_seconds"):
        greedy, drafted = (mean(line, f"{name}_{kind}") for name in ("greedy", "drafted"))
        cells += [f"{greedy:.2f}", f"{drafted:.2f}", f"{greedy / drafted:.1f}"]
    return [*cells, error_rate(line, "drafted_text"), differing(line)]


def beams_row(line: Line) -> list[str]:
    own, shared = mean(line, "own_seconds"), mean(line, "shared_seconds")
    cells = [str(line["batch_size"]), str(line["num_beams"]), str(len(line["clips"]))]
    return [*cells, f"{own:.2f}", f"{shared:.2f}", f"{own / shared:.1f}", differing(line)]


def plot_times(path: Path, lines: Sequence[Line]) -> None:
    """Milliseconds of a clip, greedy (left bar) and drafted, of the prefill and after it."""
    chosen = [line for line in lines if line["weights"] == "float32"]
    figure, axes = new_figure("")
    for place, line in enumerate(chosen):
        ms = times(line)
        for shift, name, color in ((-0.2, "greedy", CURVE_COLORS[1]), (0.2, "drafted", CURVE_COLORS[2])):
            label = name if place == 0 else None
            axes.bar(
                place + shift, ms["prefill"], 0.38, color="#bbbbbb", label="prefill" if label == "greedy" else None
            )
            axes.bar(place + shift, ms[name] - ms["prefill"], 0.38, bottom=ms["prefill"], color=color, label=label)
    axes.set_xticks(range(len(chosen)), [f"{line['task'].upper()}\n{line['rates']}" for line in chosen])
    axes.set(ylabel="ms a clip, one thread, float32")
    axes.legend()
    save_figure(path, figure)


def plot_relaxed(path: Path, lines: Sequence[Line]) -> None:
    """WER against passes of the LLM, a line per task and condition, a point per threshold."""
    figure, axes = new_figure("")
    columns = dict.fromkeys((line["task"], level(line)) for line in lines)
    for (task, condition), color in zip(columns, CURVE_COLORS, strict=False):
        own = [line for line in lines if (line["task"], level(line)) == (task, condition)]
        points = [(mean(line, "passes"), float(error_rate(line))) for line in own]
        label = task.upper() if condition == "clean" else f"{task.upper()}, {condition} dB"
        axes.plot(*zip(*points, strict=True), marker="o", markersize=4, color=color, label=label)
        for at, line in zip(points, own, strict=True):
            text = "lossless" if line["threshold"] is None else f"{line['threshold']:g}"
            axes.annotate(text, at, textcoords="offset points", xytext=(4, 4), fontsize=7, color=color)
    axes.set(xlabel="LLM passes a clip", ylabel="WER (%)", ylim=(0, None))
    axes.legend(title="at each point: threshold", title_fontsize=8)
    save_figure(path, figure)
