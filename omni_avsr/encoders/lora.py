"""LoRA inside an encoder: one set, always active, of which nothing but its settings is special."""

from __future__ import annotations

from collections.abc import Sequence

from peft import LoraConfig, inject_adapter_in_model
from torch import nn

from omni_avsr.config import LoRAConfig

NAME = "encoder"


def add_lora(encoder: nn.Module, config: LoRAConfig, target_modules: Sequence[str]) -> None:
    """Put LoRA on the linear layers named so, in place; what it starts as changes nothing (B is zero)."""
    settings = LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,  # type: ignore[arg-type]  # peft divides by the rank, whatever the number
        lora_dropout=config.dropout,
        target_modules=list(target_modules),
    )
    training = encoder.training
    inject_adapter_in_model(settings, encoder, NAME)
    # The new modules come in train mode, with dropout on.
    encoder.train(training)
