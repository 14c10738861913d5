"""Where a stage's figures go: CSV, TensorBoard, Weights & Biases, and a picture of its learning curve."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger

from omni_avsr.callbacks import SPEEDS
from omni_avsr.plots import plot_learning_curve, read_curves

LoggerName = Literal["csv", "tensorboard", "wandb"]


def build_loggers(names: Sequence[LoggerName], folder: Path, step: int) -> list[Logger]:
    """Loggers that write into a stage's folder, apart from what was logged before a resume at ``step``."""
    version = f"from-step-{step}"
    built: list[Logger] = []
    for name in names:
        match name:
            case "csv":
                built.append(CSVLogger(folder, "csv", version))
            case "tensorboard":
                built.append(TensorBoardLogger(folder, "tensorboard", version))
            case "wandb":
                built.append(WandbLogger(name=f"{folder.parents[1].name}-{folder.name}", save_dir=folder))
    return built


def check_loggers(names: Sequence[LoggerName]) -> None:
    """Raise ValueError when a logger's library is not installed."""
    if "wandb" in names and find_spec("wandb") is None:
        raise ValueError(
            "loggers names wandb, which is not installed; run pip install 'omni-avsr[wandb]' or leave it out"
        )


def close_loggers(loggers: Sequence[Logger]) -> None:
    """End what a stage logged, so that the next stage begins something of its own."""
    for logger in loggers:
        logger.finalize("success")
        if isinstance(logger, WandbLogger):  # an open run of this process would be taken for the next stage's
            logger.experiment.finish()


def plot_stage(folder: Path) -> None:
    """Draw what the CSV logger wrote of a stage, over all its sessions, into ``learning-curve.png``."""
    records = read_curves(sorted(folder.glob("csv/*/metrics.csv"), key=lambda path: path.stat().st_mtime))
    names = sorted({name for record in records for name in record})
    losses = [name for name in names if name.startswith("train/") and name.removeprefix("train/") not in SPEEDS]
    error_rates = [name for name in names if name.endswith("_wer")]
    if losses:
        path, title = folder / "learning-curve.png", folder.name
        plot_learning_curve(path, records, losses=losses, error_rates=error_rates, title=title)
