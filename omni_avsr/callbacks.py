"""What accompanies a stage's training: resume points, a limit of time, and progress."""

from __future__ import annotations

import logging
import time
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning as L
import torch
from rich import get_console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as BarDisplay
from torch import Tensor

from omni_avsr.resume import ResumePoint, trained_state
from omni_avsr.sharding import whole_optimizer_state
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
        # Clocks differ, and what is sharded can be gathered only together: the first process decides.
        late = trainer.strategy.broadcast(time.monotonic() - self.saved_at >= self.seconds)
        if late or step % self.steps == 0 or step == trainer.max_steps:
            self.saved_at = time.monotonic()
            trained, optimizer = trained_state(pl_module), whole_optimizer_state(trainer.optimizers[0])
            if trainer.is_global_zero:
                precision = trainer.precision_plugin.state_dict()
                done = pl_module.step, trained, optimizer, precision, pl_module.seconds, asdict(pl_module.flops)
                ResumePoint(*done).save(self.path)


class TimeLimit(L.Callback):
    """Ends a stage whose time is over."""

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        assert isinstance(pl_module, StageModule)
        # As for resume points, the first process decides.
        if pl_module.stage.max_seconds is not None and trainer.strategy.broadcast(pl_module.time_spent >= 1):
            trainer.should_stop = True


TERA = 1e12
SPEEDS = ("lr", "clips_per_second", "tokens_per_second", "padding", "tflops_per_second")
"""What is logged beside the objective's own figures."""


class Progress(L.Callback):
    """A bar with the time left for whoever watches, and a log line every so many steps.

    place: where the stage stands in its run, such as "stage 1 of 3, video_encoder". A line tells the objective's
    figures, clips and tokens per second, the share of padding, what was computed so far and the time left. The loggers
    get that by part of the model, too.
    """

    def __init__(self, place: str, every: int) -> None:
        self.place, self.every = place, every
        computed = TextColumn("{task.fields[tflops]:.4g} TFLOPs")
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), computed, TimeRemainingColumn())
        # The console that log lines go to as well, so that bar and lines do not write over each other.
        console = get_console()
        self.bar = BarDisplay(*columns, console=console, transient=True, disable=not console.is_terminal)
        self.task: TaskID | None = None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, StageModule)
        self._restart(trainer, pl_module)
        if trainer.is_global_zero and not self.bar.disable:
            self.bar.start()
            self.task = self.bar.add_task(
                self.place,
                total=pl_module.stage.num_steps,
                completed=pl_module.step,
                tflops=pl_module.flops.total / TERA,
            )

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.bar.stop()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        self.bar.stop()

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        assert isinstance(pl_module, StageModule)
        if self.task is not None:
            self.bar.update(self.task, completed=pl_module.step, tflops=pl_module.flops.total / TERA)
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
        # The module has summed FLOPs over the ranks already.
        tflops, tflops_per_second = pl_module.flops.total / TERA, meter.flops.total / TERA / seconds
        speeds = (lr, clips / seconds, tokens / seconds, 1 - tokens / padded, tflops_per_second)
        logged = {f"train/{name}": value for name, value in (figures | dict(zip(SPEEDS, speeds, strict=True))).items()}
        logged |= {f"tflops/{part}": flops / TERA for part, flops in pl_module.flops.parts.items()}
        pl_module.log_figures(logged | {"tflops/total": tflops})
        assert trainer.max_steps is not None
        left = timedelta(seconds=round((trainer.max_steps - trainer.global_step) * seconds / steps))
        if trainer.is_global_zero:
            log.info(
                "%s %d/%d, %s left: %s; lr %.2g, %.2f s/step, %.3g clips/s, %.4g tokens/s, padding %.0f %%, "
                "%.4g TFLOPs, %.3g TFLOPs/s",
                pl_module.name, pl_module.step, pl_module.stage.num_steps, left,
                ", ".join(f"{name} {value:.4g}" for name, value in figures.items()),
                lr, seconds / steps, clips / seconds, tokens / seconds, 100 * (1 - tokens / padded),
                tflops, tflops_per_second,
            )  # fmt: skip
        self._restart(trainer, pl_module)

    def _sum(self, trainer: L.Trainer, value: Tensor) -> float:
        """The sum over all ranks."""
        return float(trainer.strategy.reduce(value, reduce_op="sum"))

    def _restart(self, trainer: L.Trainer, pl_module: StageModule) -> None:
        self.since, self.last_step = time.monotonic(), trainer.global_step
        pl_module.meter = Meter()
