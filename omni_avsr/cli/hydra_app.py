"""What the Hydra commands share: where the configs are, and DictConfig to settings."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.logging import RichHandler


def config_folder() -> Path:
    """``conf/`` of the checkout, or the copy that an installed package carries."""
    package = Path(__file__).parents[1]
    checkout = package.parent / "conf"
    return checkout if checkout.is_dir() else package / "conf"


def read_yaml(path: Path) -> dict[str, Any]:
    """Plain values of one file. ValueError: it is no mapping."""
    values = OmegaConf.to_container(OmegaConf.load(path), resolve=True)
    if not isinstance(values, dict):
        raise ValueError(f"{path} holds no settings by name")
    return {str(key): value for key, value in values.items()}


def hydra_command(config_name: str, run: Callable[[dict[str, Any]], None]) -> None:
    """Compose ``config_name`` with the command line and call ``run`` with plain values; an error is one message."""

    @hydra.main(version_base="1.3", config_path=str(config_folder()), config_name=config_name)
    def application(config: DictConfig) -> None:
        logging.basicConfig(
            level=logging.INFO, format="%(message)s", handlers=[RichHandler(show_path=False)], force=True
        )
        try:
            values = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
            assert isinstance(values, dict)
            run({str(key): value for key, value in values.items()})
        except (ValueError, OSError, OmegaConfBaseException) as error:
            logging.getLogger(__name__).error("%s", error)
            sys.exit(1)

    application()
