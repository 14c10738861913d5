"""``omni-avsr evaluate``: score a checkpoint on all tasks and rates."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
from rich import box, get_console
from rich.table import Table

from omni_avsr.cli.hydra_app import hydra_command
from omni_avsr.config import from_mapping
from omni_avsr.evaluation import EvaluateConfig, evaluate
from omni_avsr.metrics import Score
from omni_avsr.report import describe


def main() -> None:
    hydra_command("evaluate", _run)


def _run(values: dict[str, Any]) -> None:
    config = from_mapping(EvaluateConfig, values, "evaluate")
    report = evaluate(config)
    for name, scores in report.scores.items():
        get_console().print(overview(name, scores))
    logging.getLogger(__name__).info("table with intervals, hypotheses and plots: %s", config.output)


def overview(name: str, scores: Sequence[Score]) -> Table:
    """The word error rates of one test set, a column per task and rates, for a terminal of 80 characters."""
    table = Table(
        title=f"{name}: word error rate in %", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), title_justify="left"
    )
    ordered = sorted(scores, key=lambda score: score.setting.sort_key)
    columns = list(dict.fromkeys((s.setting.task, s.setting.rates) for s in ordered))
    rows: dict[str, dict[tuple[str, str], float]] = {}
    for s in ordered:
        rows.setdefault(describe(s.setting).removeprefix("clean, "), {})[s.setting.task, s.setting.rates] = 100 * s.wer
    for heading in ("", *(f"{task.upper()}\n{rates}" for task, rates in columns), "Avg"):
        table.add_column(heading, justify="right" if heading else "left", no_wrap=True)
    for label, wers in rows.items():
        cells = [f"{wers[column]:.1f}" if column in wers else "" for column in columns]
        table.add_row(label, *cells, f"{np.mean(list(wers.values())):.1f}")
    return table
