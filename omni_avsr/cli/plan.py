"""``omni-avsr plan``: what to train with a budget, by laws that ``omni-avsr fit-scaling`` fitted."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from pathlib import Path

from rich import box, get_console
from rich.logging import RichHandler
from rich.table import Table

from omni_avsr.config import to_mapping
from omni_avsr.files import write_atomically
from omni_avsr.scaling.plan import Plan, budget_in_flops, make_plan
from omni_avsr.scaling.results import LAWS_NAME, read_laws

log = logging.getLogger(__name__)


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Tell what to train with a budget: strategy, sizes, and the budget's split over stages."
    )
    parser.add_argument("--budget", required=True, help="FLOPs of training (3e18), or GPU-hours (40GPU-hours)")
    parser.add_argument("--data", type=float, required=True, help="hours of distinct training speech")
    parser.add_argument(
        "--laws", type=Path, default=Path("scaling") / LAWS_NAME, help="what fit-scaling wrote (scaling/laws.json)"
    )
    parser.add_argument("--device-flops", type=float, help="the device's peak in FLOP/s, for a budget in GPU-hours")
    parser.add_argument("--utilisation", type=float, default=0.3, help="share of the peak that training reaches (0.3)")
    parser.add_argument("--output", type=Path, help="write the plan as JSON to this file as well")
    return parser


def main() -> None:
    arguments = parser().parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[RichHandler(show_path=False)])
    try:
        flops, assumptions = budget_in_flops(arguments.budget, arguments.device_flops, arguments.utilisation)
        plan = make_plan(read_laws(arguments.laws), flops, arguments.data, assumptions)
    except ValueError as error:
        log.error("%s", error)
        sys.exit(1)
    for table in tables(plan):
        get_console().print(table)
    for line in plan.assumptions:
        log.info("assumed: %s", line)
    for option in plan.options:
        for warning in option.warnings:
            log.warning("%s: %s", option.strategy, warning)
    for strategy, reason in plan.refusals.items():
        log.warning("%s is not compared: %s", strategy, reason)
    if arguments.output is not None:
        write_atomically(arguments.output, json.dumps(to_mapping(plan), indent=2, allow_nan=False) + "\n")
        log.info("plan: %s", arguments.output)


def tables(plan: Plan) -> list[Table]:
    """The strategies, best first, and the stages of the best."""
    title = f"{plan.flops:.3g} FLOPs on {plan.data_hours:g} hours: {plan.measure} in %"
    options = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left")
    for heading in ("strategy", "predicted", "95 % interval", "encoders", "LLM", "law"):
        options.add_column(heading)
    for option in plan.options:
        error = option.predicted
        options.add_row(
            option.strategy,
            f"{100 * error.value:.1f}",
            f"{100 * error.low:.1f} to {100 * error.high:.1f}",
            f"{option.encoder_parameters / 1e6:.1f} M",
            f"{option.llm_parameters / 1e6:.1f} M",
            option.formula,
        )
    best = plan.options[0]
    stages = Table("stage of the best", title=f"{best.strategy}: the budget", box=box.SIMPLE_HEAD, title_justify="left")
    for heading in ("share", "FLOPs", "epochs"):
        stages.add_column(heading, justify="right")
    for stage in best.stages:
        epochs = f"{stage.epochs:.3g}" if stage.epochs else ""
        stages.add_row(stage.stage, f"{stage.share:.1%}", f"{stage.flops:.3g}", epochs)
    return [options, stages]
