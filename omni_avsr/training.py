"""One stage under Lightning's Trainer: the module, its schedule, and exact resumption."""

from __future__ import annotations

import logging
import math
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import jiwer
import lightning as L
import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.utils.data import DataLoader

from omni_avsr.data.batching import PlanSampler
from omni_avsr.flops.ledger import build_ledger
from omni_avsr.flops.tape import Flops
from omni_avsr.normalize import normalize_for_scoring
from omni_avsr.objectives.base import Objective, ObjectiveOutput
from omni_avsr.resume import ResumePoint, load_state, trained_state
from omni_avsr.sharding import load_optimizer_state, shard
from omni_avsr.stages import OptimizerConfig, StageConfig, set_modes
from omni_avsr.types import Batch

log = logging.getLogger(__name__)


def schedule(
    config: OptimizerConfig, num_steps: int, time_spent: Callable[[], float] = lambda: 0.0
) -> Callable[[int], float]:
    """Learning-rate factor of a step: linear warm-up, then a cosine from 1 to 0 at ``num_steps``, or 1.

    time_spent: share of a stage's time that is over; the cosine is at least as far.
    """

    def factor(step: int) -> float:
        if step < config.warmup_steps:
            return (step + 1) / config.warmup_steps
        if config.schedule == "constant":
            return 1.0
        done = (step - config.warmup_steps) / max(1, num_steps - config.warmup_steps)
        return 0.5 * (1 + math.cos(math.pi * min(1.0, max(done, time_spent()))))

    return factor


MAX_SEED = 2**63


def step_seed(seed: int, step: int, place: int) -> int:
    """Seed of everything that a micro-batch draws from torch's own generator (dropout).

    ``place`` is the micro-batch's place in the global batch, however many ranks share it.
    """
    return ((seed * 1_000_003 + step) * 1_009 + place) % MAX_SEED


class Meter:
    """Sums over the micro-batches since the last progress line."""

    def __init__(self) -> None:
        self.figures: dict[str, Tensor] = {}
        self.clips = self.tokens = self.padded_tokens = 0
        self.flops = Flops()

    def add(self, batch: Batch, output: ObjectiveOutput, flops: Flops) -> None:
        for name, value in output.figures.items():
            self.figures[name] = self.figures.get(name, torch.zeros_like(value)) + value
        self.clips += len(batch)
        self.tokens += output.num_tokens
        self.padded_tokens += output.num_padded_tokens
        self.flops += flops


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
        self.validated_step = -1
        self.validation_losses: list[tuple[float, int]] = []
        self.validation: dict[str, list[tuple[str, str]]] = defaultdict(list)
        set_modes(self, [f"model.{glob}" for glob in stage.drifting])
        assert isinstance(objective, nn.Module)
        self.ledger = build_ledger(model, objective, stage.gradient_checkpointing)
        self.flops = Flops(**start.flops) if start else Flops()
        if start is not None and not start.flops:
            log.warning(
                "the resume point is of before FLOPs were counted: those of its %d steps are missing", start.step
            )
        # An objective may have no parameters to tell its mode by; it decides by it what only training does.
        self.objective.training = True
        if start is not None:
            load_state(self, start.trained, expected=trained_state(self))

    def configure_model(self) -> None:
        # Lightning calls this at the start of a validation too.
        if self.device_mesh is not None and not isinstance(self, FSDPModule):
            shard(self, self.device_mesh["data_parallel"], methods=("training_step", "validation_step"))

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
                "start before the run; use trainer=ddp, trainer=sharded, torchrun or srun"
            )
        if self.start is not None:
            self.trainer.precision_plugin.load_state_dict(self.start.precision)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        accumulation = self.stage.batching.accumulation
        place = batch_idx % accumulation * self.trainer.world_size + self.global_rank
        torch.manual_seed(step_seed(self.seed, batch.step, place))
        output = self.objective(self.model, batch)
        flops = self._over_ranks(self.ledger.count(output.work))
        self.flops += flops
        self.meter.add(batch, output, flops)
        # The loss is this micro-batch's share of the global batch's mean. Lightning divides by the accumulation and
        # DDP and sharding average over ranks, where both have to be summed.
        return output.loss * accumulation * self.trainer.world_size

    def _over_ranks(self, flops: Flops) -> Flops:
        """The sum over all ranks, at every step: a resume point is written by one rank and tells of all."""
        if self.trainer.world_size == 1:
            return flops
        table = flops.table().to(self.device)
        return Flops.from_table(self.trainer.strategy.reduce(table, reduce_op="sum"))

    def configure_optimizers(self) -> Any:
        config = self.stage.optimizer
        trained = sorted((name, value) for name, value in self.named_parameters() if value.requires_grad)
        groups = [
            {"params": [value for _, value in trained if value.ndim > 1], "weight_decay": config.weight_decay},
            {"params": [value for _, value in trained if value.ndim <= 1], "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW([group for group in groups if group["params"]], config.lr, config.betas)
        if self.start is not None:
            load_optimizer_state(optimizer, self.start.optimizer)
        offset = self.start.step if self.start else 0
        factor = schedule(config, self.stage.num_steps, lambda: self.time_spent)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: factor(step + offset))
        return [optimizer], [{"scheduler": scheduler, "interval": "step"}]

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.validation_losses.append((float(self.objective(self.model, batch).loss), len(batch)))
        for reading, texts in self.objective.transcribe(self.model, batch).items():
            self.validation[reading] += list(zip(batch.texts, texts, strict=True))

    def on_validation_epoch_end(self) -> None:
        num_clips = sum(clips for _, clips in self.validation_losses)
        figures = {"validation/loss": sum(loss * clips for loss, clips in self.validation_losses) / num_clips}
        for reading, pairs in self.validation.items():
            references, texts = ([normalize_for_scoring(text) for text in side] for side in zip(*pairs, strict=True))
            figures[f"validation/{reading}_wer"] = jiwer.wer(references, texts)
            figures[f"validation/{reading}_cer"] = jiwer.cer(references, texts)
        self.validation.clear()
        self.validation_losses.clear()
        self.last_validation, self.validated_step = figures, self.step
        self.log_figures(figures)
        log.info("step %d: %s", self.step, ", ".join(f"{key} {value:.3f}" for key, value in figures.items()))

    @property
    def time_spent(self) -> float:
        """The share of the stage's time that is over; 0 where it has no limit."""
        limit = self.stage.max_seconds
        return 0.0 if limit is None else self.seconds / limit

    def log_figures(self, figures: dict[str, float]) -> None:
        """Send figures to every logger under the stage's own step, which goes on after a resume."""
        for logger in self.loggers:
            logger.log_metrics(figures, step=self.step)
            logger.save()  # by itself a CSV logger writes at the end, which a killed run never reaches
