"""``omni-avsr splice``: new training clips from pieces of prepared ones."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from rich.logging import RichHandler
from rich.progress import track

from data_prep.splice import splice_corpus


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Splice prepared training clips at word boundaries into new ones.")
    parser.add_argument("manifest", type=Path, help="manifest.jsonl of a prepared corpus with word times")
    parser.add_argument("output", type=Path, help="folder for the new clips and their manifest.jsonl")
    parser.add_argument("--clips", type=int, required=True, help="how many to make")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--margin", type=float, default=0.4, help="longest silence at either end, in seconds (0.4)")
    return parser


def main() -> None:
    arguments = parser().parse_args()
    if arguments.clips < 1:
        parser().error(f"--clips must be at least 1, got {arguments.clips}")
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[RichHandler(show_path=False)])
    try:
        splice_corpus(
            arguments.manifest,
            arguments.output,
            arguments.clips,
            arguments.seed,
            arguments.margin,
            lambda numbers: track(list(numbers), "splicing"),
        )
    except ValueError as error:
        logging.getLogger(__name__).error("%s", error)
        sys.exit(1)
