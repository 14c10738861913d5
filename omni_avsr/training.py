"""One stage under Lightning's Trainer: the module, its schedule, and exact resumption."""

from __future__ import annotations

import logging
import math
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import jiwer
import lightning as L
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from omni_avsr.data.batching import BatchPlan, PlanSampler
from omni_avsr.objectives import Objective, ObjectiveOutput
from omni_avsr.resume import ResumePoint, load_state, trained_state
from omni_avsr.stages import OptimizerConfig, StageConfig, set_modes
from omni_avsr.types import Batch

log = logging.getLogger(__name__)


def schedule(config: OptimizerConfig, num_steps: int) -> Callable[[int], float]:
    """Learning-rate factor of a step: linear warm-up, then a cosine from 1 to 0 at ``num_steps``."""

    def factor(step: int) -> float:
        if step < config.warmup_steps:
            return (step + 1) / config.warmup_steps
        done = (step - config.warmup_steps) / max(1, num_steps - config.warmup_steps)
        return 0.5 * (1 + math.cos(math.pi * min(1.0, done)))

    return factor


def step_seed(seed: int, step: int, place: int) -> int:
    """Seed of everything that a micro-batch draws from torch's own generator (dropout).

    ``place`` is the micro-batch's place in the global batch, however many ranks share it.
    """
    return (seed * 1_000_003 + step) * 1_009 + place


class Meter:
    """Sums over the micro-batches since the last progress line."""

    def __init__(self) -> None:
        self.figures: dict[str, Tensor] = {}
        self.clips = self.tokens = self.padded_tokens = 0

    def add(self, batch: Batch, output: ObjectiveOutput) -> None:
        for name, value in output.figures.items():
            self.figures[name] = self.figures.get(name, torch.zeros_like(value)) + value
        self.clips += len(batch)
        self.tokens += output.num_tokens
        self.padded_tokens += output.num_padded_tokens


class StageModule(L.LightningModule):
    """Trains ``objective`` on ``model`` as ``stage`` says, from ``start`` on."""

    def __init__(
        self,
        model: nn.Module,
        objective: Objective,
        name: str,
        stage: StageConfig,
        seed: int,
        start: ResumePoint | None = None,
    ) -> None:
        super().__init__()
        self.model, self.objective = model, objective
        self.name, self.stage, self.seed, self.start = name, stage, seed, start
        self.meter = Meter()
        self.begun = time.monotonic()
        self.last_validation: dict[str, float] = {}
        self.validation_losses: list[float] = []
        self.validation: dict[str, list[tuple[str, str]]] = defaultdict(list)
        set_modes(self)
        if start is not None:
            load_state(self, start.trained, expected=trained_state(self))

    @property
    def step(self) -> int:
        """Optimizer steps of the stage that are done, those before a resume included."""
        return self.trainer.global_step + (self.start.step if self.start else 0)

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        # Lightning takes batches apart by their fields, which frozen dataclasses refuse.
        return batch.to(device)

    @property
    def seconds(self) -> float:
        """Time spent on the stage, validation and sessions before a resume included."""
        return time.monotonic() - self.begun + (self.start.seconds if self.start else 0.0)

    def on_train_start(self) -> None:
        loader = self.trainer.train_dataloader
        assert isinstance(loader, DataLoader)
        sampler = loader.sampler
        if isinstance(sampler, PlanSampler) and sampler.rank != self.global_rank:
            raise ValueError(
                f"process {self.global_rank} would train on the batches of process {sampler.rank}: processes must "
                "start before the run; use trainer.strategy=ddp_find_unused_parameters_true or torchrun"
            )
        if self.start is not None:
            self.trainer.precision_plugin.load_state_dict(self.start.precision)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        accumulation = self.stage.batching.accumulation
        place = batch_idx % accumulation * self.trainer.world_size + self.global_rank
        torch.manual_seed(step_seed(self.seed, batch.step, place))
        output = self.objective(self.model, batch)
        self.meter.add(batch, output)
        # The loss is this micro-batch's share of the global batch's mean. Lightning divides by the accumulation and
        # DDP averages over ranks, where both have to be summed.
        return output.loss * accumulation * self.trainer.world_size

    def configure_optimizers(self) -> Any:
        config = self.stage.optimizer
        trained = sorted((name, value) for name, value in self.named_parameters() if value.requires_grad)
        groups = [
            {"params": [value for _, value in trained if value.ndim > 1], "weight_decay": config.weight_decay},
            {"params": [value for _, value in trained if value.ndim <= 1], "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW([group for group in groups if group["params"]], config.lr, config.betas)
        if self.start is not None:
            optimizer.load_state_dict(self.start.optimizer)
        offset, factor = (self.start.step if self.start else 0), schedule(config, self.stage.num_steps)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: factor(step + offset))
        return [optimizer], [{"scheduler": scheduler, "interval": "step"}]

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.validation_losses.append(float(self.objective(self.model, batch).loss))
        for reading, texts in self.objective.transcribe(self.model, batch).items():
            self.validation[reading] += list(zip(batch.texts, texts, strict=True))

    def on_validation_epoch_end(self) -> None:
        figures = {"validation/loss": sum(self.validation_losses) / len(self.validation_losses)}
        for reading, pairs in self.validation.items():
            references, texts = [reference for reference, _ in pairs], [text for _, text in pairs]
            figures[f"validation/{reading}_wer"] = jiwer.wer(references, texts)
            figures[f"validation/{reading}_cer"] = jiwer.cer(references, texts)
        self.validation.clear()
        self.validation_losses.clear()
        self.last_validation = figures
        self.log_figures(figures)
        log.info("step %d: %s", self.step, ", ".join(f"{key} {value:.3f}" for key, value in figures.items()))

    def log_figures(self, figures: dict[str, float]) -> None:
        """Send figures to every logger under the stage's own step, which goes on after a resume."""
        for logger in self.loggers:
            logger.log_metrics(figures, step=self.step)
            logger.save()  # by itself a CSV logger writes at the end, which a killed run never reaches


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
        # Each rank holds its share of the global batch's mean.
        total = {name: trainer.strategy.reduce(value, reduce_op="sum") for name, value in meter.figures.items()}
        figures = {name: float(value) / steps for name, value in total.items()}
        figures |= {
            "lr": trainer.optimizers[0].param_groups[0]["lr"],
            "clips_per_second": meter.clips / seconds,
            "tokens_per_second": meter.tokens / seconds,
            "padding": 1 - meter.tokens / meter.padded_tokens,
        }
        pl_module.log_figures({f"train/{name}": value for name, value in figures.items()})
        assert trainer.max_steps is not None
        left = (trainer.max_steps - trainer.global_step) * seconds / steps
        shown = ", ".join(f"{name} {value:.4g}" for name, value in figures.items())
        where = f"{pl_module.name} step {pl_module.step}/{pl_module.stage.num_steps}"
        if trainer.is_global_zero:
            log.info("%s: %s, %.2f s/step, %s left", where, shown, seconds / steps, timedelta(seconds=round(left)))
        self._restart(trainer, pl_module)

    def _restart(self, trainer: L.Trainer, pl_module: StageModule) -> None:
        self.since, self.last_step = time.monotonic(), trainer.global_step
        pl_module.meter = Meter()


def plan_loader(dataset: Any, sampler: Sequence[BatchPlan] | PlanSampler, num_workers: int) -> DataLoader:
    """A loader whose dataset turns each plan into a finished batch."""
    return DataLoader(
        dataset,
        batch_size=None,
        sampler=sampler,
        num_workers=num_workers,
        persistent_workers=False,
        multiprocessing_context="spawn" if num_workers else None,
    )
