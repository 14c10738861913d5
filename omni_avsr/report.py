"""Turns scores into what people read and machines read back: the paper's table in Markdown and JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter, ValidationError

from omni_avsr.bootstrap import Interval
from omni_avsr.files import write_atomically
from omni_avsr.metrics import Comparison, Score, Setting
from omni_avsr.normalize import NORMALIZER_VERSION
from omni_avsr.types import MATCHED


@dataclass(frozen=True)
class Report:
    """All results of one evaluation. ``scores`` and ``comparisons`` are keyed by the name of the data set.

    metadata: what a reader needs to repeat it (commit, seed, date, command, checkpoint, training domain); JSON values.
    """

    scores: Mapping[str, Sequence[Score]]
    comparisons: Mapping[str, Sequence[Comparison]] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)
    normalizer_version: int = NORMALIZER_VERSION


def write_report(folder: Path, report: Report) -> None:
    """Write ``table.md`` and ``table.json``."""
    write_atomically(folder / "table.md", to_markdown(report))
    text = json.dumps(asdict(report), indent=2, ensure_ascii=False, allow_nan=False)
    write_atomically(folder / "table.json", f"{text}\n")


def read_report(path: Path) -> Report:
    """Read a ``table.json`` back; ValueError with the file's name if it is not one."""
    try:
        read = TypeAdapter(Report).validate_json(path.read_bytes(), strict=True, extra="forbid")
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(key) for key in first["loc"])
        raise ValueError(f"{path} is not a report: {place}: {first['msg']}") from error
    return read


def to_markdown(report: Report) -> str:
    """The paper's table (Omni-AVSR, table I), a block per data set, condition and SNR, then the paired differences.

    Columns are the tasks and rates that were scored; their average is the plain mean, as in the paper. All in percent.
    """
    parts = ["# Word and character error rates", "", *(f"- {key}: {value}" for key, value in report.metadata.items())]
    parts += [f"- normaliser version: {report.normalizer_version}", ""]
    for name, scores in report.scores.items():
        for block in _blocks(scores):
            parts += [f"## {name}, {describe(block[0].setting)}", "", *_table(block), ""]
        if report.comparisons.get(name):
            parts += [f"## {name}, paired differences in WER", "", *_comparison_table(report.comparisons[name]), ""]
    levels = ", ".join(sorted({f"{100 * s.wer_interval.level:g} %" for block in report.scores.values() for s in block}))
    parts += [
        "Error rates are errors over reference length of the whole set, in percent; differences in percentage points, "
        f"negative when the first is better. In brackets: bootstrap intervals at {levels}.",
        "",
    ]
    return "\n".join(parts)


def _blocks(scores: Iterable[Score]) -> list[list[Score]]:
    """Scores in the paper's column order, split by condition and SNR."""
    blocks: dict[tuple[str, float | None], list[Score]] = {}
    for s in sorted(scores, key=lambda s: s.setting.sort_key):
        blocks.setdefault((s.setting.condition, s.setting.snr_db), []).append(s)
    return list(blocks.values())


def describe(setting: Setting) -> str:
    """The condition of a score in words: "clean", or "-5 dB SNR, swapped video"."""
    noise = "clean" if setting.snr_db is None else f"{setting.snr_db:g} dB SNR"
    return noise if setting.condition == MATCHED else f"{noise}, {setting.condition}"


def _table(block: Sequence[Score]) -> list[str]:
    names = [_column(s.setting) for s in block]
    wers = [f"{100 * s.wer:.1f} {_bracket(s.wer_interval)}" for s in block]
    cers = [f"{100 * s.cer:.1f} {_bracket(s.cer_interval)}" for s in block]
    return [
        _row("", *names, "Avg"),
        _row("---", *["---:"] * (len(block) + 1)),
        _row("WER", *wers, f"{100 * np.mean([s.wer for s in block]):.1f}"),
        _row("CER", *cers, f"{100 * np.mean([s.cer for s in block]):.1f}"),
        _row("clips", *(str(s.num_clips) for s in block), ""),
        _row("words", *(str(s.num_words) for s in block), ""),
    ]


def _comparison_table(comparisons: Iterable[Comparison]) -> list[str]:
    rows = [_row("condition", "comparison", "difference", "clips"), _row("---", "---", "---:", "---:")]
    for pair in comparisons:
        second = _column(pair.b)
        if pair.a.condition != pair.b.condition:
            second += f" {pair.b.condition}"
        if pair.a.snr_db != pair.b.snr_db:
            second += " clean"
        value = f"{100 * pair.difference.value:+.1f} {_bracket(pair.difference.interval, sign='+')}"
        compared = f"{_column(pair.a)} minus {second}"
        rows.append(_row(describe(pair.a), compared, value, str(pair.difference.num_clips)))
    return rows


def _column(setting: Setting) -> str:
    return f"{setting.task.upper()} {setting.rates}"


def _bracket(interval: Interval, sign: str = "") -> str:
    return f"[{100 * interval.low:{sign}.1f}, {100 * interval.high:{sign}.1f}]"


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"
