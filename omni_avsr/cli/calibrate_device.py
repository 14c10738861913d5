"""``omni-avsr calibrate-device``: measure a board once, for ``plan-edge`` and the memory ledger."""

from __future__ import annotations

import argparse
import logging
import sys
from importlib.util import find_spec
from pathlib import Path

from rich import box, get_console
from rich.logging import RichHandler
from rich.table import Table

from omni_avsr.cli.edge_models import add_model_arguments, model_of
from omni_avsr.compression import task_rates
from omni_avsr.config import ModelConfig
from omni_avsr.edge.budget import memory_gib, process_bytes
from omni_avsr.edge.calibrate import Calibration, Check, calibrate
from omni_avsr.edge.device import write_device
from omni_avsr.edge.ledger import WEIGHT_FORMATS, WeightFormat
from omni_avsr.quantization import PACKAGES
from omni_avsr.types import Task

log = logging.getLogger(__name__)
SHORT, LONG = 3.0, 15.0
"""Seconds of the clips that are measured by default."""


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="omni-avsr calibrate-device",
        description="Measure a board once: memory and time of processes that load a model and transcribe noise.",
    )
    add_model_arguments(parser)
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="the device's constants, as JSON")
    parser.add_argument("--memory", required=True, help="the board's, such as 8GB; no process may pass its share of it")
    parser.add_argument(
        "--weights",
        nargs="+",
        choices=WEIGHT_FORMATS,
        help="formats of the LLM's weights, the first for memory (default: bfloat16, and those that are installed)",
    )
    parser.add_argument("--task", type=Task, choices=list(Task), help="default: the one with the most inputs")
    parser.add_argument("--seconds", type=float, nargs=2, default=(SHORT, LONG), metavar=("SHORT", "LONG"))
    parser.add_argument("--new-tokens", type=int, default=32)
    parser.add_argument("--repetitions", type=int, default=3, help="of what is timed; the fastest counts (3)")
    return parser


def main() -> None:
    arguments = parser().parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[RichHandler(show_path=False)])
    try:
        config = model_of(arguments)
        device, checks, skipped = calibrate(_settings(arguments, config), _tell)
        write_device(arguments.output, device)
    except ValueError as error:
        log.error("%s", error)
        sys.exit(1)
    get_console().print(table(checks))
    for name, reason in skipped.items():
        log.warning("%s was not measured: %s", name, reason)
    log.info("device: %s", arguments.output)


def _settings(arguments: argparse.Namespace, config: ModelConfig) -> Calibration:
    task = arguments.task or max(config.tasks, key=lambda task: len(task.modalities))
    if task not in config.tasks:
        raise ValueError(f"this model is for {', '.join(config.tasks)}, not for {task}")
    if arguments.repetitions < 1 or arguments.new_tokens < 2 or not 0 < arguments.seconds[0] < arguments.seconds[1]:
        raise ValueError("--repetitions takes at least 1, --new-tokens at least 2, --seconds a short and a longer clip")
    return Calibration(
        model=config,
        checkpoint=arguments.checkpoint,
        formats=tuple(dict.fromkeys(arguments.weights or _installed())),
        task=task,
        rates=min(task_rates(config.compression, task)),
        seconds=tuple(arguments.seconds),
        new_tokens=arguments.new_tokens,
        repetitions=arguments.repetitions,
        limit=process_bytes(memory_gib(arguments.memory)),
    )


def _installed() -> list[WeightFormat]:
    return ["bfloat16", *(name for name, packages in PACKAGES.items() if all(map(find_spec, packages)))]


def _tell(what: str, done: int, total: int) -> None:
    log.info("%s: %d of %d", what, done + 1, total)


def table(checks: list[Check]) -> Table:
    """Peaks that were measured beside those that the ledger gives with the constants of this device."""
    table = Table(title="Peak memory in MiB", box=box.SIMPLE_HEAD, title_justify="left")
    for heading in ("LLM's weights", "clip", "measured", "ledger", "difference", ""):
        table.add_column(heading, justify="right" if heading not in ("LLM's weights", "") else "left")
    for check in checks:
        table.add_row(
            check.weight_format,
            f"{check.request.seconds:g} s",
            f"{check.measured / 2**20:.0f}",
            f"{check.predicted / 2**20:.0f}",
            f"{check.predicted / check.measured - 1:+.1%}",
            "fitted" if check.is_fitted else "",
        )
    return table
