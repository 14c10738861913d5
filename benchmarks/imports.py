"""Time and memory of one import in a fresh interpreter."""

from __future__ import annotations

import importlib

from benchmarks.cases import ImportCase
from benchmarks.measure import Stopwatch, peak_memory_mib, read_case, write_figures


def measure(case: ImportCase) -> dict[str, float]:
    """The figures of the first import of a module in this process."""
    before = peak_memory_mib()
    watch = Stopwatch()
    importlib.import_module(case.module)
    watch.lap("import")
    return {
        "import_seconds": watch.seconds["import"],
        "build_peak_memory_mib": before,
        "peak_memory_mib": peak_memory_mib(),
    }


if __name__ == "__main__":
    write_figures(measure(ImportCase(**read_case())))
