"""What accompanies a stage's training: resume points and progress lines."""

from __future__ import annotations

import logging
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor

from omni_avsr.resume import ResumePoint, trained_state
from omni_avsr.training import Meter, StageModule

log = logging.getLogger(__name__)


class ResumeSaver(L.Callback):
    """Writes the resume point every ``seconds`` or ``steps``, whichever is first, and at the end."""

    def __init__(self, path: Path, seconds: float, steps: int) -> None:
        self.path, self.seconds, self.steps = path, seconds, steps
        self.saved_at, self.last_step = time.monotonic(), 0

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        assert isinstance(pl_module, StageModule)
        step = trainer.global_step
        if step == self.last_step:  # in the middle of accumulation, where batch norm has moved on already
            return
        self.last_step = step
        due = step % self.steps == 0 or time.monotonic() - self.saved_at >= self.seconds
        if due or step == trainer.max_steps:
            self.saved_at = time.monotonic()
            if trainer.is_global_zero:
                precision = trainer.precision_plugin.state_dict()
                optimizer = trainer.optimizers[0].state_dict()
                trained = trained_state(pl_module)
                ResumePoint(pl_module.step, trained, optimizer, precision, pl_module.seconds).save(self.path)


SPEEDS = ("lr", "clips_per_second", "tokens_per_second", "padding")
"""What a progress line tells beside the objective's own figures."""


class Progress(L.Callback):
    """Logs the step, its figures, clips and tokens per second, the share of padding and the time left."""

    def __init__(self, every: int) -> None:
        self.every = every

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, StageModule)
        self._restart(trainer, pl_module)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        assert isinstance(pl_module, StageModule)
        steps = trainer.global_step - self.last_step
        if not steps or trainer.global_step % self.every:
            return
        seconds = time.monotonic() - self.since
        meter = pl_module.meter
        # Each rank holds its share of the global batch's mean, and of its clips and tokens.
        figures = {name: self._sum(trainer, value) / steps for name, value in meter.figures.items()}
        clips, tokens, padded = (
            self._sum(trainer, torch.tensor(float(count), device=pl_module.device))
            for count in (meter.clips, meter.tokens, meter.padded_tokens)
        )
        lr = trainer.optimizers[0].param_groups[0]["lr"]
        figures |= dict(zip(SPEEDS, (lr, clips / seconds, tokens / seconds, 1 - tokens / padded), strict=True))
        pl_module.log_figures({f"train/{name}": value for name, value in figures.items()})
        assert trainer.max_steps is not None
        left = (trainer.max_steps - trainer.global_step) * seconds / steps
        shown = ", ".join(f"{name} {value:.4g}" for name, value in figures.items())
        where = f"{pl_module.name} step {pl_module.step}/{pl_module.stage.num_steps}"
        if trainer.is_global_zero:
            log.info("%s: %s, %.2f s/step, %s left", where, shown, seconds / steps, timedelta(seconds=round(left)))
        self._restart(trainer, pl_module)

    def _sum(self, trainer: L.Trainer, value: Tensor) -> float:
        """The sum over all ranks."""
        return float(trainer.strategy.reduce(value, reduce_op="sum"))

    def _restart(self, trainer: L.Trainer, pl_module: StageModule) -> None:
        self.since, self.last_step = time.monotonic(), trainer.global_step
        pl_module.meter = Meter()
