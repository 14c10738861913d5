"""A causal language model without weights, and how it gets them: tensor by tensor, quantised on the way."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from accelerate import init_empty_weights
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from omni_avsr.config import Quantization
from omni_avsr.quantization import Quantised, check_installed, quantise_layers, tie_int8
from omni_avsr.streaming import Rows, copy_rows, read_slabs


def llm_skeleton(
    config: PreTrainedConfig, dtype: torch.dtype, quantization: Quantization | None = None, device: str = "cpu"
) -> PreTrainedModel:
    """A frozen model in evaluation mode, to be filled by ``fill``: no value of it is in memory yet.

    Args:
        dtype: of what is not quantised, and of the activations.
        device: of quantised layers; all other parameters are on the meta device.

    Raises:
        ValueError: a library for ``quantization`` is missing, or a layer does not fit it.
    """
    if quantization is not None:
        check_installed(quantization)
    # Buffers that are computed from the settings, such as rotary frequencies, get their values at once.
    with init_empty_weights(include_buffers=False):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=dtype)
    if quantization is not None:
        quantise_layers(model, quantization, device)
    return model.requires_grad_(False).eval()


def tensor_shapes(model: PreTrainedModel) -> dict[str, tuple[int, ...]]:
    """What a skeleton is to be filled with: names in the unquantised model, each tied tensor once."""
    return {name: _shape(module, key) for name, module, key in _to_fill(model)}


def unfit(model: PreTrainedModel, rows: Mapping[str, Rows]) -> str | None:
    """Why ``fill`` cannot give ``model`` what is in ``rows``; None when it can."""
    for name, shape in tensor_shapes(model).items():
        if name not in rows:
            return f"there is no {name}"
        if tuple(rows[name].shape) != shape:
            return f"{name} is {list(rows[name].shape)}, not {list(shape)}"
    names = {module: name for name, module in model.named_modules()}
    table, head = (f"{names[part]}.weight" for part in (model.get_input_embeddings(), model.get_output_embeddings()))
    if model.config.tie_word_embeddings and head in rows and _differ(rows[table], rows[head]):
        return f"{head} should be {table}, says config.json, but is another matrix"
    return None


def _differ(one: Rows, other: Rows) -> bool:
    return one.shape != other.shape or not all(
        torch.equal(a, b) for (_, a), (_, b) in zip(read_slabs(one), read_slabs(other), strict=True)
    )


@torch.no_grad()
def fill(model: PreTrainedModel, rows: Mapping[str, Rows]) -> None:
    """Give a skeleton the values of ``rows``, which ``unfit`` finds fit; other rows are left out."""
    wanted = list(_to_fill(model))
    # All are allocated before any is filled: what comes and goes between them would leave as much memory unused.
    for _, module, key in wanted:
        own = module.get_parameter(key)
        if own.is_meta:
            module.register_parameter(key, nn.Parameter(torch.empty_like(own, device="cpu"), requires_grad=False))
    for name, module, key in wanted:
        if isinstance(module, Quantised) and key == "weight":
            for first, slab in read_slabs(rows[name]):
                module.write(first, slab.float())
        else:
            copy_rows(module.get_parameter(key), rows[name])
    if not isinstance(model.get_output_embeddings(), Quantised):
        model.tie_weights()
    tie_int8(model)


def _to_fill(model: PreTrainedModel) -> Iterator[tuple[str, nn.Module, str]]:
    """Name, module and key of every parameter, but that of an output matrix which is the embeddings."""
    head = model.get_output_embeddings() if model.config.tie_word_embeddings else None
    for prefix, module in model.named_modules():
        for key, _ in module.named_parameters(recurse=False, remove_duplicate=False):
            if module is not head:
                yield f"{prefix}.{key}", module, key


def _shape(module: nn.Module, key: str) -> tuple[int, ...]:
    if isinstance(module, nn.Linear) and key == "weight":
        return (module.out_features, module.in_features)  # not its own: a quantised one packs several in a byte
    return tuple(module.get_parameter(key).shape)
