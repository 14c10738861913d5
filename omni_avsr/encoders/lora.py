"""LoRA inside an encoder: one set, always active, of which nothing but its settings is special."""

from __future__ import annotations

from collections.abc import Sequence

from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import nn

from omni_avsr.config import LoRAConfig

NAME = "encoder"


def add_lora(encoder: nn.Module, config: LoRAConfig, target_modules: Sequence[str]) -> None:
    """Put LoRA on the linear layers named so, in place; what it starts as changes nothing (B is zero).

    It is float32 whatever the dtype of the encoder, since small steps vanish in bfloat16.
    """
    settings = LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,  # type: ignore[arg-type]  # peft divides by the rank, whatever the number
        lora_dropout=config.dropout,
        target_modules=list(target_modules),
    )
    training = encoder.training
    inject_adapter_in_model(settings, encoder, NAME)
    for name, parameter in encoder.named_parameters():
        if ".lora_" in name:
            parameter.data = parameter.data.float()
    # The new modules come in train mode, with dropout on.
    encoder.train(training)


def merge_lora(encoder: nn.Module) -> None:
    """Add LoRA to the weights that it stands upon and take it out, in place."""
    adapted = [(name, module) for name, module in encoder.named_modules() if isinstance(module, LoraLayer)]
    for name, module in adapted:
        module.merge()
        encoder.set_submodule(name, module.get_base_layer())
