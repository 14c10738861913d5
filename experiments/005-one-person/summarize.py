"""Tables and plots from results/*.jsonl, written beside this script.

python experiments/005-one-person/summarize.py
"""

from __future__ import annotations

import json
import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from matplotlib.ticker import LogLocator, NullFormatter
from torchmetrics.functional.text import rouge_score

from omni_avsr.bootstrap import bootstrap_interval
from omni_avsr.error_counts import count_errors, error_rate
from omni_avsr.files import write_atomically
from omni_avsr.normalize import normalize_for_scoring
from omni_avsr.plots import CURVE_COLORS, MARKERS, new_figure, save_figure
from omni_avsr.types import Hypothesis, Task

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
SEED = 7
SEEN = "s32"
"""The talker who enrols on plain speech, and whose test has four sentences of it."""
REFERENCES = ("lora", "new projector")
"""Usual ways, with a projector that knows another voice and with one that knows nothing: others are held to both."""
PAPER = "Tiny-Align's paper: 50 times less training time, and over 50 % better quality."
MIB = 1024**2

Line = Mapping[str, Any]


@dataclass(frozen=True)
class Point:
    """One method at one number of steps, over all talkers that have it."""

    method: str
    steps: int
    lines: Sequence[Line]

    @property
    def seconds(self) -> float:
        """Of training, all stages together: the mean over talkers."""
        return fmean(sum(line.get("seconds_by_stage", [0.0])) for line in self.lines)

    def hypotheses(self, clips: str = "talker", prompt: str = "own", but: str | None = None) -> list[Hypothesis]:
        found = {}
        for line in self.lines:
            if line["talker"] != but:
                for row in line["hypotheses"]:
                    if (row["clips"], row["prompt"]) == (clips, prompt):
                        for id_, reference, text in zip(row["ids"], row["references"], row["texts"], strict=True):
                            # The known speaker's clips are written once for each talker's model.
                            key = id_ if clips == "talker" else f"{line['talker']} {id_}"
                            found[key] = Hypothesis(key, Task.ASR, "", reference, text, speaker=line["talker"])
        return list(found.values())


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    summarize(RESULTS, HERE, HERE)


def read_points(results: Path) -> list[Point]:
    groups: dict[tuple[str, int], list[Line]] = defaultdict(list)
    for file in sorted(results.glob("*.jsonl")):
        for text in file.read_text().splitlines():
            line = json.loads(text)
            groups[line["method"] or f"none ({line['base']})", line["steps"]].append(line)
    return [Point(method, steps, lines) for (method, steps), lines in sorted(groups.items())]


def summarize(results: Path, output: Path, others: Path) -> None:
    """Write table.md and curves.png of the lines of run.py, and of memory.py and ceiling.py in ``others``."""
    found = read_points(results)
    sections = [
        f"# 005: tables\n\nMade by `summarize.py`. {PAPER}",
        "## Every point\n\n" + table(HEAD, map(row_of, found)),
        "## The instruction\n\n" + table(PROMPT_HEAD, map(prompt_row, found)),
        *(f"## Held to {name} through the LLM\n\n{_equal_quality(name, found)}" for name in REFERENCES),
    ]
    for name, title, head, row in (
        ("memory", "Memory of training", MEMORY_HEAD, memory_row),
        ("ceiling", "The LLM given the words' own embeddings", CEILING_HEAD, ceiling_row),
    ):
        if (others / f"{name}.jsonl").is_file():
            lines = [json.loads(line) for line in (others / f"{name}.jsonl").read_text().splitlines()]
            sections.append(f"## {title}\n\n" + table(head, map(row, lines)))
    write_atomically(output / "table.md", "\n\n".join(sections) + "\n")
    plot(output / "curves.png", found)


HEAD = (
    *(
        "method",
        "steps",
        "talkers",
        "seconds",
        "seconds a step",
        "GFLOPs a step",
        "trained",
        "WER, %",
        "CER, %",
        "ROUGE-1",
    ),
    *(f"WER without {SEEN}, %", "WER on s1, %"),
)
PROMPT_HEAD = (
    *("method", "steps", "WER with its own prompt, %", "without any, %", "with the instruction, %"),
    "by the nearest embeddings, without the LLM, %",
)

MEMORY_HEAD = ("method", "peak, MiB", "of it libraries", "limit of the 8 GB profile")

CEILING_HEAD = ("adapters", "instruction", "WER, %", "such as")


def row_of(point: Point) -> list[str]:
    lines, own = point.lines, point.hypotheses()
    steps = fmean(line.get("steps_by_stage", [0])[-1] for line in lines)
    last = fmean(line.get("seconds_by_stage", [0.0])[-1] for line in lines)
    rouge = [one_rouge(h) for h in own]
    return [
        *(point.method, str(point.steps), str(len(lines)), f"{point.seconds:.1f}"),
        f"{last / steps:.3f}" if steps else "",
        f"{fmean(line['flops_by_stage'][-1] for line in lines) / steps / 1e9:.1f}" if steps else "",
        str(sum(lines[0]["num_trainable"])) if "num_trainable" in lines[0] else "",
        *(percent(own, "words"), percent(own, "characters"), f"{fmean(rouge):.3f}"),
        *(percent(point.hypotheses(but=SEEN), "words"), percent(point.hypotheses("known"), "words")),
    ]


def prompt_row(point: Point) -> list[str]:
    written = [point.hypotheses(prompt=prompt) for prompt in ("own", "none", "instruction", "nearest")]
    return [point.method, str(point.steps), *(percent(own, "words") if own else "" for own in written)]


def memory_row(line: Line) -> list[str]:
    return [line["method"], *(f"{line[key] / MIB:.0f}" for key in ("peak", "libraries", "limit"))]


def ceiling_row(line: Line) -> list[str]:
    pairs = zip(line["references"], line["texts"], strict=True)
    rows = [Hypothesis(str(n), Task.ASR, "", reference, text) for n, (reference, text) in enumerate(pairs)]
    example = " ".join(line["texts"][0].split())
    adapters = "of 001" if line["adapted"] else "none"
    return [adapters, line["instruction"] or "none", percent(rows, "words"), f"{line['references'][0]}: {example}"]


def percent(hypotheses: Sequence[Hypothesis], unit: Any) -> str:
    """An error rate with the bounds of resampled talkers, whose clips err alike."""
    counts = count_errors(hypotheses)
    talkers = [clip.speaker or "" for clip in counts]
    several = len(set(talkers)) > 1
    interval = bootstrap_interval(counts, unit, seed=SEED, groups=talkers if several else None)
    return f"{100 * error_rate(counts, unit):.1f} [{100 * interval.low:.1f}, {100 * interval.high:.1f}]"


def one_rouge(hypothesis: Hypothesis) -> float:
    """ROUGE-1 F of one clip."""
    texts = normalize_for_scoring(hypothesis.text), normalize_for_scoring(hypothesis.reference)
    return float(rouge_score(*texts, rouge_keys="rouge1")["rouge1_fmeasure"])


def word_error_rate(point: Point) -> float:
    return error_rate(count_errors(point.hypotheses()), "words")


def _equal_quality(reference: str, found: Sequence[Point]) -> str:
    """Seconds until a method is as good as ``reference`` ends, and what it has after as many seconds as that took."""
    usual = [point for point in found if point.method == reference]
    if not usual:
        return f"There is no point of {reference}."
    target = max(usual, key=lambda point: point.steps)
    goal, rows = word_error_rate(target), []
    for method in dict.fromkeys(point.method for point in found):
        own = sorted((point for point in found if point.method == method), key=lambda point: point.seconds)
        there = next((point for point in own if word_error_rate(point) <= goal), None)
        within = [point for point in own if point.seconds <= target.seconds]
        rows.append(
            [
                method,
                "never" if there is None else f"{there.seconds:.1f}",
                "" if there is None or not there.seconds else f"{target.seconds / there.seconds:.1f}",
                f"{100 * min(map(word_error_rate, within)):.1f}" if within else "",
                f"{100 * (min(map(word_error_rate, within)) / goal - 1):+.0f}" if within else "",
            ]
        )
    head = (
        "method", f"seconds to {100 * goal:.1f} % WER", f"times faster than {reference}",
        f"best WER within {target.seconds:.0f} s, %", f"against {reference}, %",
    )  # fmt: skip
    return table(head, rows)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *rows))


def plot(path: Path, found: Sequence[Point]) -> None:
    """WER against seconds of training, pooled over talkers."""
    figure, axes = new_figure("")
    methods = list(dict.fromkeys(point.method for point in found if point.steps))
    for place, method in enumerate(methods):
        own = [(point.seconds, 100 * word_error_rate(point)) for point in found if point.method == method]
        look = {"color": CURVE_COLORS[place % len(CURVE_COLORS)], "marker": MARKERS[place % len(MARKERS)]}
        line = "-" if place < len(CURVE_COLORS) else "--"
        axes.plot(*np.array(own).T, linestyle=line, markersize=4, label=method, **look)
    for point in found:
        if point.method == "none (grid)":
            axes.axhline(100 * word_error_rate(point), color="#999999", linewidth=1, label="not adapted")
    axes.set(xscale="log", xlabel="seconds of training", ylabel="WER of eight talkers (%)", ylim=(0, None))
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
    save_figure(path, figure)


if __name__ == "__main__":
    main()
