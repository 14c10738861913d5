"""``omni-avsr train``: all stages of an experiment."""

from __future__ import annotations

import sys
from typing import Any

from omni_avsr.cli.hydra_app import hydra_command
from omni_avsr.config import from_mapping
from omni_avsr.run import RunConfig, run


def main() -> None:
    hydra_command("train", _run)


def _run(values: dict[str, Any]) -> None:
    # Lightning starts the other processes of a node by running sys.argv, in which the subcommand is no script.
    sys.argv[0] = __file__
    run(from_mapping(RunConfig, values, "train"))


if __name__ == "__main__":
    main()
