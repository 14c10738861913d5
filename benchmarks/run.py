"""Run the benchmarks, each case in a process of its own: JSON with every figure, and tables of the main ones.

    python -m benchmarks.run [--quick] [--only training published real_size decoding import preparation]
                             [--grid FOLDER] [--output FILE]

One thread, float32, random weights of the shapes of SmolLM2-135M, Whisper tiny and the compact video encoder, or, for
the published recipe's step, AV-HuBERT Base. The recipe at its size (Llama-3.2-1B) is in bfloat16, and left out where
too little memory is free; the preparation needs real clips of GRID, and is left out without.
"""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console

from benchmarks.cases import (
    AnyCase,
    DecodingCase,
    ImportCase,
    PreparationCase,
    PublishedCase,
    RealSizeCase,
    TrainingCase,
    all_cases,
    preparation_cases,
    quick_cases,
)
from benchmarks.measure import ROOT, UNITS, available_memory_gib, machine_facts, run_case
from benchmarks.tables import tables
from omni_avsr.files import write_atomically
from omni_avsr.provenance import commit, today

NAMES: dict[type[AnyCase], str] = {
    TrainingCase: "training",
    PublishedCase: "published",
    RealSizeCase: "real_size",
    DecodingCase: "decoding",
    ImportCase: "import",
    PreparationCase: "preparation",
}
NUM_CLIPS = 100
"""Clips that each process prepares in a benchmark of the preparation."""
NOTES = (
    "Every case ran in its own process; warm-ups are not counted; seconds are medians over num_repetitions.",
    "Weights and inputs are random. Prompts have as many tokens as SmolLM2's tokenizer gives the published ones, "
    "transcripts two a second, which is what it gives GRID's sentences of 3 s.",
    "Training: projectors, markers and adapters (hybrid, rank 16) are trained, encoders are frozen.",
    "Published: projectors, the LLM's LoRA (shared) and AV-HuBERT's are trained, as in the authors' recipe; no "
    "optimizer. Their code took 26.6 s and 6.0 GiB for this step on one thread of a machine like the one of the first "
    "records here.",
    "Real size: frozen weights in bfloat16, trained ones, gradients and AdamW's state in float32, autocast to "
    "bfloat16; one step without warm-up, then AVSR of one clip, greedily.",
    "Preparation: clips of GRID (360x288, 25 fps, 3 s), each process on a core of its own, from the file to finished "
    "crops and sound; the start of the processes does not count. Where the time goes is measured in one process.",
    "Decoding: every clip gets exactly num_new_tokens tokens, the end of a text being suppressed.",
)

LOG_WIDTH = 110
"""Columns of the tables where no terminal says how many there are; they fit."""


def measure(case: AnyCase) -> dict[str, float]:
    """The figures of one case; an import is run in as many processes as it has repetitions."""
    match case:
        case TrainingCase():
            return run_case("benchmarks.training", case)
        case PublishedCase():
            return run_case("benchmarks.published", case)
        case RealSizeCase():
            return run_case("benchmarks.real_size", case)
        case DecodingCase():
            return run_case("benchmarks.decoding", case)
        case ImportCase():
            runs = [run_case("benchmarks.imports", case) for _ in range(case.num_warmups + case.num_repetitions)]
            counted = runs[case.num_warmups :]
            return {figure: median(run[figure] for run in counted) for figure in counted[0]}
        case PreparationCase():
            return run_case("benchmarks.preparation", case)


def shortage(case: AnyCase) -> str | None:
    """Why ``case`` cannot be run now, or None when it can."""
    if not isinstance(case, RealSizeCase):
        return None
    available = available_memory_gib()
    return f"needs {case.needed_gib:g} GiB, {available:.1f} are free" if available < case.needed_gib else None


def arguments() -> argparse.Namespace:
    """The command line's settings."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="tiny models, one repetition: does it run at all")
    names = list(NAMES.values())
    parser.add_argument("--only", nargs="+", choices=names, default=names, help="some of the benchmarks")
    parser.add_argument("--repetitions", type=int, default=5, help="counted repetitions of each case (5)")
    parser.add_argument("--seed", type=int, default=0, help="of weights and inputs (0)")
    parser.add_argument("--grid", type=Path, help="folder of GRID clips, for the preparation (none: it is left out)")
    parser.add_argument(
        "--output", type=Path, help="benchmarks/results/<date>-<commit>.json by default; no file with --quick"
    )
    chosen = parser.parse_args()
    if chosen.repetitions < 1:
        parser.error(f"--repetitions must be at least 1, got {chosen.repetitions}")
    return chosen


def main() -> None:
    """Run what the command line asks for, and write after every case what there is so far."""
    chosen = arguments()
    cases = quick_cases(chosen.seed) if chosen.quick else all_cases(chosen.repetitions, chosen.seed)
    if chosen.grid is not None:
        cases += preparation_cases(os.path.relpath(chosen.grid, ROOT), 1 if chosen.quick else NUM_CLIPS)
    cases = [case for case in cases if NAMES[type(case)] in chosen.only]
    records: list[dict[str, Any]] = []
    left_out: list[dict[str, Any]] = []
    report: dict[str, Any] = {
        "format_version": 1,
        "date": today(),
        "commit": commit(),
        "quick": chosen.quick,
        "seed": chosen.seed,
        "machine": machine_facts(),
        "notes": NOTES,
        "units": dict(UNITS),
        "num_cases": len(cases),
        "left_out": left_out,
        "records": records,
    }
    output: Path | None = chosen.output
    if output is None and not chosen.quick:
        output = ROOT / "benchmarks" / "results" / f"{report['date']}-{report['commit']}.json"
    progress = Console(stderr=True, highlight=False)
    results: list[tuple[AnyCase, dict[str, float]]] = []
    for number, case in enumerate(cases, start=1):
        progress.print(f"{number}/{len(cases)} {NAMES[type(case)]}: {case.label}")
        if reason := shortage(case):
            progress.print(f"left out: {reason}")
            left_out.append({"benchmark": NAMES[type(case)], "case": asdict(case), "reason": reason})
            continue
        figures = measure(case)
        results.append((case, figures))
        records.append({"benchmark": NAMES[type(case)], "case": asdict(case), "figures": figures})
        if output is not None:
            # What was measured outlives a failure of a later case; num_cases shows how much is missing then.
            write_atomically(output, json.dumps(report, indent=2) + "\n")
    console = Console()
    if not console.is_terminal:
        console.width = LOG_WIDTH
    for table in tables(results):
        console.print(table)
    if output is not None:
        console.print(f"written to {output}", soft_wrap=True)


if __name__ == "__main__":
    main()
