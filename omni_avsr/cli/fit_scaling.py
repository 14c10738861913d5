"""``omni-avsr fit-scaling``: the law of error over compute, sizes and data that finished runs follow."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from rich import box, get_console
from rich.logging import RichHandler
from rich.markup import escape
from rich.table import Table

from omni_avsr.provenance import command_line, commit, today
from omni_avsr.scaling.estimate import fit_scaling
from omni_avsr.scaling.laws import SYMBOLS
from omni_avsr.scaling.plot import plot_laws
from omni_avsr.scaling.points import POINTS_NAME, read_points
from omni_avsr.scaling.results import LAWS_NAME, Estimate, ScalingLaws, StrategyFit, write_laws

log = logging.getLogger(__name__)


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Fit laws of error over compute, sizes and data to finished runs, for each strategy."
    )
    parser.add_argument(
        "runs", type=Path, nargs="+", help=f"JSONL files of points, or folders with {POINTS_NAME} somewhere in them"
    )
    parser.add_argument("--output", type=Path, default=Path("scaling"), help="folder for laws and plot (scaling)")
    parser.add_argument("--seed", type=int, default=7)
    return parser


def main() -> None:
    arguments = parser().parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[RichHandler(show_path=False)])
    try:
        origin = {"commit": commit(), "date": today(), "command": command_line()}
        laws = fit_scaling(read_points(arguments.runs), arguments.seed, origin)
        write_laws(arguments.output / LAWS_NAME, laws)
        plot_laws(arguments.output / "scaling.png", laws)
    except ValueError as error:
        log.error("%s", error)
        sys.exit(1)
    get_console().print(overview(laws))
    for fit in laws.fits:
        for line in extrapolation(fit):
            log.info("%s", line)
    for strategy, reason in laws.refusals.items():
        log.warning("no law of %s: %s", strategy, reason)
    log.info("laws, their intervals and a plot: %s", arguments.output)


def overview(laws: ScalingLaws) -> Table:
    """A row per strategy: its law, exponents and floor."""
    table = Table(title=f"{laws.measure}: laws, with 95 % intervals", box=box.SIMPLE_HEAD, title_justify="left")
    for heading in ("strategy", "law", "exponents", "floor E in %"):
        table.add_column(heading)
    for fit in laws.fits:
        exponents = [f"{SYMBOLS[variable]}: {_bracket(value)}" for variable, value in fit.exponents.items()]
        floor = _bracket(fit.floor, 100, 1) if fit.floor else ""
        table.add_row(fit.strategy, fit.law.formula, escape("\n".join(exponents)), escape(floor))
    return table


def extrapolation(fit: StrategyFit) -> list[str]:
    """What the cheaper levels foretold of the dearest one, in words."""
    if not fit.held_out:
        return [f"{fit.strategy}: too few levels to foretell the dearest one from the others"]
    return [
        f"{fit.strategy}: {row.factor:.2g} times the compute foretold from the cheaper levels: "
        f"{_bracket(row.predicted, 100, 1)} %, measured {100 * row.measured:.1f} %, off by {row.relative_error:+.1%}, "
        f"{'inside' if row.inside else 'OUTSIDE'} the interval"
        for row in fit.held_out
    ]


def _bracket(value: Estimate, scale: float = 1, digits: int = 3) -> str:
    numbers = [f"{scale * number:.{digits}f}" for number in (value.value, value.low, value.high)]
    return f"{numbers[0]} [{numbers[1]}, {numbers[2]}]"
