"""``omni-avsr evaluate``: score a checkpoint on all tasks and rates."""

from __future__ import annotations

import logging
from typing import Any

from omni_avsr.cli.hydra_app import hydra_command
from omni_avsr.config import from_mapping
from omni_avsr.evaluation import EvaluateConfig, evaluate
from omni_avsr.report import to_markdown


def main() -> None:
    hydra_command("evaluate", _run)


def _run(values: dict[str, Any]) -> None:
    config = from_mapping(EvaluateConfig, values, "evaluate")
    report = evaluate(config)
    logging.getLogger(__name__).info("%s\nwritten to %s", to_markdown(report), config.output)
