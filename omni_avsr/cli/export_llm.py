"""``omni-avsr export-llm``: the LLM of a checkpoint, adapters of one task merged, in transformers' layout."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import get_args

from omni_avsr.config import DType
from omni_avsr.llm_export import export_llm
from omni_avsr.types import Task


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="omni-avsr export-llm",
        description="Write the LLM of a checkpoint, with the adapters of one task added to its weights, as a folder "
        "that transformers loads and other runtimes convert.",
    )
    parser.add_argument("--checkpoint", type=Path, required=True, metavar="DIR")
    parser.add_argument("--task", type=Task, choices=list(Task), required=True)
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER", help="a new folder")
    parser.add_argument("--dtype", choices=get_args(DType), help="of the weights (default: as in the checkpoint)")
    return parser


def main() -> None:
    options = parser().parse_args()
    try:
        export_llm(options.checkpoint, options.task, options.output, options.dtype)
    except ValueError as error:
        sys.exit(f"omni-avsr export-llm: {error}")
