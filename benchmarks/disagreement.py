"""How often two evaluations of the same clips differ: ``python -m benchmarks.disagreement FOLDER_A FOLDER_B``.

With one evaluation at ``batch_size=1`` and one at 8 this is how often padding and batching change a result: never in
float32, sometimes in bfloat16, whose sums depend on shapes.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from pathlib import Path

from omni_avsr.hypotheses import read_hypotheses
from omni_avsr.provenance import commit, today
from omni_avsr.report import read_report


def disagreement(first: Path, second: Path) -> dict[str, dict[str, float]]:
    """Per task and rates: hypotheses that both folders hold, and the share of them that differ.

    Raises:
        ValueError: they have no hypothesis in common.
    """
    texts = [
        {
            (path.name, h.id, h.task, h.rates, h.snr_db, h.condition): h.text
            for path in sorted(folder.glob("hypotheses-*.jsonl"))
            for h in read_hypotheses(path)
        }
        for folder in (first, second)
    ]
    common = texts[0].keys() & texts[1].keys()
    if not common:
        raise ValueError(f"{first} and {second} have no hypothesis in common")
    total = Counter(f"{key[2]} {key[3]}" for key in sorted(common, key=str))
    differing = Counter(f"{key[2]} {key[3]}" for key in common if texts[0][key] != texts[1][key])
    table = {name: {"hypotheses": count, "differing": differing[name] / count} for name, count in total.items()}
    return {**table, "all": {"hypotheses": len(common), "differing": differing.total() / len(common)}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("first", type=Path)
    parser.add_argument("second", type=Path)
    arguments = parser.parse_args()
    evaluations = [read_report(folder / "table.json").metadata for folder in (arguments.first, arguments.second)]
    result = {
        "commit": commit(),
        "date": today(),
        "evaluations": evaluations,
        "disagreement": disagreement(arguments.first, arguments.second),
    }
    json.dump(result, sys.stdout, indent=2)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
