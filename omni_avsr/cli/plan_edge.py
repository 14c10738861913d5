"""``omni-avsr plan-edge``: what fits a board's memory and a time limit, and what to take."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich import box, get_console
from rich.logging import RichHandler
from rich.table import Table

from omni_avsr.cli.edge_models import add_model_arguments, known_llms, model_of, names_its_llm
from omni_avsr.config import ModelConfig, to_mapping
from omni_avsr.edge.budget import memory_gib, process_bytes
from omni_avsr.edge.device import DEFAULT, read_device
from omni_avsr.edge.known_errors import known_wers
from omni_avsr.edge.ledger import WEIGHT_FORMATS
from omni_avsr.edge.meter import GIB
from omni_avsr.edge.plan import Budget, Candidate, EdgePlan, Option, all_options, decide
from omni_avsr.files import write_atomically
from omni_avsr.shapes import shaped_model
from omni_avsr.types import Task

log = logging.getLogger(__name__)
SHOWN = 24
"""Settings up to which all are listed: those of a checkpoint."""


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="omni-avsr plan-edge",
        description="List what fits a board, with its memory, time and known error rate, and pick one. Loads nothing.",
    )
    parser.add_argument("--memory", required=True, help="the board's, such as 8GB, of which a process gets 6.0 GiB")
    parser.add_argument("--latency", type=_seconds, metavar="SECONDS", help="from the end of a clip to its transcript")
    parser.add_argument("--device", type=Path, metavar="FILE", help="what calibrate-device wrote for the board")
    add_model_arguments(parser)
    parser.add_argument(
        "--llm", nargs="+", metavar="NAME", help="of conf/language_model, for a --config without one (default: all)"
    )
    parser.add_argument("--weights", nargs="+", choices=WEIGHT_FORMATS, default=["bfloat16", "int8", "nf4"])
    parser.add_argument("--task", type=Task, choices=list(Task), help="default: the one with the most inputs")
    parser.add_argument("--seconds", type=float, default=10.0, help="length of the clip to plan for (10)")
    parser.add_argument("--tokens-per-second", type=float, default=4.0, help="of speech, that are written (4)")
    parser.add_argument("--beams", type=int, nargs="+", default=[1, 5], help="to choose among (1 5)")
    parser.add_argument("--results", type=Path, nargs="+", default=[], metavar="TABLE.json", help="of evaluate")
    parser.add_argument("--test-set", help="of the results (default: their first)")
    parser.add_argument("--all", action="store_true", help="list all that fits, not the best of each LLM and format")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the plan as JSON as well")
    return parser


def _seconds(text: str) -> float:
    """``0.5`` or ``0.5s``."""
    return float(text.removesuffix("s"))


def main() -> None:
    arguments = parser().parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[RichHandler(show_path=False)])
    try:
        board = memory_gib(arguments.memory)
        budget = Budget(process_bytes(board), arguments.latency)
        log.info(
            "%g GB of memory: %.2f GiB for the process, the rest is the system's and the GPU context's",
            board,
            budget.memory / GIB,
        )
        plan = _plan(arguments, budget)
    except ValueError as error:
        log.error("%s", error)
        sys.exit(1)
    shown = plan.options if arguments.all or len(plan.options) <= SHOWN else best_of_each(plan.options)
    get_console().print(options_table(shown, len(plan.options)))
    get_console().print(memory_table(plan.best))
    log.info("take %s: %s", describe(plan.best), plan.reason)
    for name, reason in plan.refusals.items():
        log.warning("%s does not fit: %s", name, reason)
    if arguments.output is not None:
        write_atomically(arguments.output, json.dumps(_record(plan, budget), indent=2, allow_nan=False) + "\n")
        log.info("plan: %s", arguments.output)


def _plan(arguments: argparse.Namespace, budget: Budget) -> EdgePlan:
    device = read_device(arguments.device) if arguments.device is not None else DEFAULT
    if arguments.device is None:
        log.warning("no --device: memory is foretold with a server's constants, and times are not known")
    if arguments.seconds <= 0 or arguments.tokens_per_second <= 0 or min(arguments.beams) < 1:
        raise ValueError("--seconds, --tokens-per-second and --beams take numbers above 0")
    if arguments.results and arguments.checkpoint is None:
        raise ValueError("--results are of one checkpoint: name it by --checkpoint")
    wers = known_wers(arguments.results, arguments.test_set)
    configs = _configs(arguments)
    task = arguments.task or max(next(iter(configs.values())).tasks, key=lambda task: len(task.modalities))
    candidates = (
        Candidate(name, shaped_model(config, 0, "meta"), tuple(dict.fromkeys(arguments.weights)))
        for name, config in configs.items()
    )
    new_tokens = max(1, round(arguments.seconds * arguments.tokens_per_second))
    beams = list(dict.fromkeys(arguments.beams))
    return decide(all_options(candidates, task, arguments.seconds, new_tokens, beams, device, budget, wers), budget)


def _configs(arguments: argparse.Namespace) -> dict[str, ModelConfig]:
    """The models to choose among, by the names of their LLMs."""
    if names_its_llm(arguments):
        if arguments.llm:
            raise ValueError("this model has an LLM of its own; --llm is for settings without one")
        config = model_of(arguments)
        return {config.llm.weights.rpartition("/")[2]: config}
    found = [model_of(arguments, name) for name in arguments.llm or known_llms()]
    return {config.llm.weights.rpartition("/")[2]: config for config in found}


def best_of_each(options: Sequence[Option]) -> list[Option]:
    """The first of each LLM and format of its weights."""
    return list({(option.llm, option.weight_format): option for option in reversed(options)}.values())[::-1]


def describe(option: Option) -> str:
    request = option.request
    beams = "greedily" if request.num_beams == 1 else f"with {request.num_beams} beams"
    return f"{option.llm} in {option.weight_format}, {request.task} at {request.rates.label(request.task)}, {beams}"


def options_table(options: Sequence[Option], num_fitting: int) -> Table:
    """Settings that fit, the best first."""
    request = options[0].request
    title = f"{request.task.upper()} of {request.seconds:g} s: {len(options)} of {num_fitting} settings that fit"
    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", padding=(0, 1, 0, 0))
    for heading in ("LLM", "weights"):
        table.add_column(heading)
    for heading in ("rates", "beams", "clips to", "memory", "time", "WER"):
        table.add_column(heading, justify="right", no_wrap=True)
    for option in options:
        table.add_row(
            option.llm,
            option.weight_format,
            option.request.rates.label(option.request.task),
            str(option.request.num_beams),
            f"{option.longest:g} s",
            f"{option.memory.peak / GIB:.2f} GiB",
            "unknown" if option.seconds is None else f"{option.seconds.total:.2f} s",
            "unknown" if option.wer is None else f"{100 * option.wer:.1f} %",
        )
    return table


def memory_table(option: Option) -> Table:
    """Where the bytes of a setting are, at its fullest stage."""
    title = f"the first, when it is fullest: {option.memory.fullest}"
    table = Table("part", title=title, box=box.SIMPLE_HEAD, title_justify="left")
    table.add_column("MiB", justify="right")
    for part, size in option.memory.parts.items():
        if size:
            table.add_row(part.replace("_", " "), f"{size / 2**20:.0f}")
    table.add_row("together", f"{option.memory.peak / 2**20:.0f}")
    return table


def _record(plan: EdgePlan, budget: Budget) -> dict[str, Any]:
    def of(option: Option) -> dict[str, Any]:
        return {
            "llm": option.llm,
            "weight_format": option.weight_format,
            **to_mapping(option.request),
            "peak_bytes": option.memory.peak,
            "bytes": dict(option.memory.parts),
            "fullest": option.memory.fullest,
            "total_seconds": None if option.seconds is None else option.seconds.total,
            "wer": option.wer,
            "longest_clip_seconds": option.longest,
        }

    return {
        "process_bytes": budget.memory,
        "latency": budget.latency,
        "reason": plan.reason,
        "options": [of(option) for option in plan.options],
        "refusals": dict(plan.refusals),
    }
