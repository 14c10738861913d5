"""Lightning's Trainer: which of its settings are the user's, and its errors as ours."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import lightning as L
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.plugins.precision import HalfPrecision
from lightning.pytorch.strategies import ModelParallelStrategy, StrategyRegistry

from omni_avsr.types import Batch

log = logging.getLogger(__name__)

OWN = frozenset(
    {
        "max_steps",
        "max_epochs",
        "accumulate_grad_batches",
        "gradient_clip_val",
        "val_check_interval",
        "check_val_every_n_epoch",
        "num_sanity_val_steps",
        "use_distributed_sampler",
        "enable_checkpointing",
        "enable_progress_bar",
        "enable_model_summary",
        "logger",
        "callbacks",
        "inference_mode",
    }
)
"""What a stage's settings decide."""

SHARDED = "sharded"
"""The strategy whose name Lightning does not have."""


class ShardedStrategy(ModelParallelStrategy):
    """Shards over all processes, however many there are; Lightning's own would shard over nodes alone."""

    def setup_environment(self) -> None:
        self._data_parallel_size, self._tensor_parallel_size = self.world_size, 1
        super().setup_environment()


StrategyRegistry.register(SHARDED, ShardedStrategy, "Every process keeps a share of all parameters (fully_shard).")

PRECISIONS = ("32-true", "32", 32, "bf16-mixed", "16-mixed", "bf16-true")


class AllBFloat16(HalfPrecision):
    """bf16-true: weights, adapters, Adam's state and inputs in bfloat16, as published (Omni-AVSR 1.8 R3).

    Adapters and Adam's state lose small updates so. What is made in a forward pass says its own dtype, so torch's
    default stays as it is.
    """

    def __init__(self) -> None:
        super().__init__("bf16-true")

    def convert_input(self, data: Batch) -> Batch:
        return data.to(None, torch.bfloat16)

    @contextmanager
    def forward_context(self) -> Iterator[None]:
        yield


def check_trainer(settings: Mapping[str, Any]) -> None:
    """Raise ValueError for settings that Lightning's Trainer does not have, or that are not the user's to give."""
    if unknown := sorted(settings.keys() - inspect.signature(L.Trainer).parameters.keys()):
        raise ValueError(f"trainer has {', '.join(unknown)}, which lightning.Trainer does not take")
    if own := sorted(settings.keys() & OWN):
        raise ValueError(f"trainer has {', '.join(own)}, which follows from the stage's settings")
    if (precision := settings.get("precision", "32-true")) not in PRECISIONS:
        raise ValueError(
            f"trainer.precision is {precision}; choose 32-true, bf16-mixed or 16-mixed (or bf16-true, as published, in "
            "which adapters lose small updates). For frozen LLM weights in half the memory, set "
            "model.llm.dtype=bfloat16 beside bf16-mixed"
        )
    strategy = str(settings.get("strategy", "auto"))
    if strategy.startswith(("fsdp", "deepspeed")):
        raise ValueError(
            f"trainer.strategy is {strategy}, from which trained weights cannot be gathered here; use trainer=fsdp or "
            f"trainer=sharded, whose strategy is {SHARDED}"
        )
    if strategy == SHARDED and precision in ("16-mixed", "bf16-true"):
        # In 16-mixed each process would look for overflows in its own share, and skip steps that others take.
        raise ValueError(f"trainer.precision is {precision}, which strategy sharded cannot have; choose bf16-mixed")


def build_trainer(settings: Mapping[str, Any], **own: Any) -> L.Trainer:
    """A Trainer with the user's ``settings`` and the stage's ``own``. ValueError: this machine lacks what they ask."""
    # What it would say at every start, the line below says in one.
    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.WARNING)
    settings = dict(settings)
    if settings.get("precision") == "bf16-true":
        settings |= {"precision": None, "plugins": [AllBFloat16()]}
    try:
        trainer = L.Trainer(**own, **settings)
    except MisconfigurationException as error:
        raise ValueError(f"trainer: {error}") from error
    if trainer.is_global_zero:
        device, precision = trainer.strategy.root_device, trainer.precision
        log.info("training on %d device(s) such as %s, precision %s", trainer.world_size, device, precision)
    return trainer
