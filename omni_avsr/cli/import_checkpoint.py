"""``omni-avsr import-checkpoint``: a checkpoint of Omni-AVSR's authors -> one of this project."""

from __future__ import annotations

import logging
from typing import Any

from omni_avsr.cli.hydra_app import hydra_command
from omni_avsr.config import from_mapping
from omni_avsr.published.facts import ImportConfig
from omni_avsr.published.importer import import_checkpoint


def main() -> None:
    hydra_command("import_checkpoint", _run)


def _run(values: dict[str, Any]) -> None:
    folder = import_checkpoint(from_mapping(ImportConfig, values, "import"))
    logging.getLogger(__name__).info("checkpoint: %s", folder)
