"""Fully sharded training: each process keeps a share of every parameter, gradient and optimizer state.

What a process computes with it gathers from all others just before, and drops afterwards: the decoder and encoder
layers one by one, everything else for a whole step. So all processes have to run the same layers in the same order.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor

LAYER_LISTS = ("layers", "h")
"""What lists of transformer layers are called, here and in transformers. Other lists are not safe: the convolutions of
wav2vec 2.0 are called for each clip, and processes have unequal numbers of clips."""


def shard(module: nn.Module, mesh: DeviceMesh, methods: Sequence[str]) -> None:
    """Spread the parameters of ``module``, frozen ones too, over the processes of ``mesh``, in place.

    Names and modules stay as they are; parameters become ``DTensor``.

    Args:
        methods: of ``module``, which use its parameters; the only places where these are whole.

    Raises:
        ValueError: the trained parameters differ in dtype, so that their gradients cannot be reduced together, or
            weights are quantised.
    """
    if not all(value.is_floating_point() for value in module.parameters()):
        raise ValueError("quantised weights cannot be spread over processes; set model.llm.quantization=null")
    trained = sorted({str(value.dtype) for value in module.parameters() if value.requires_grad})
    if len(trained) > 1:
        raise ValueError(
            f"a sharded stage trains parameters of one dtype, not of {' and '.join(trained)}; set "
            "model.llm.dtype=float32, or train no weights of the LLM itself"
        )
    for layer in _layers(module):
        fully_shard(layer, mesh=mesh)
    # Tied weights and parameters that are used outside of their module's own forward are all in this last group.
    fully_shard(module, mesh=mesh)
    for method in methods:
        register_fsdp_forward_method(module, method)


def _layers(module: nn.Module) -> Iterator[nn.Module]:
    """The transformer layers of ``module``, which every pass calls once, whatever its batch."""
    for name, child in module.named_children():
        yield from child if isinstance(child, nn.ModuleList) and name in LAYER_LISTS else _layers(child)


def whole(value: Tensor) -> Tensor:
    """The tensor whose share this process holds, gathered, which all processes have to do together; others as is."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def whole_optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The optimizer's state with whole tensors, the same as that of unsharded training; for all processes together."""
    state = optimizer.state_dict()
    gathered = {number: {key: whole(value) for key, value in own.items()} for number, own in state["state"].items()}
    return state | {"state": gathered}


def load_optimizer_state(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Load whole tensors, as ``whole_optimizer_state`` gives them; each process takes its share."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    shares = {
        number: {key: _share(value, parameters[number]) for key, value in own.items()}
        for number, own in state["state"].items()
    }
    optimizer.load_state_dict({**state, "state": shares})


def _share(value: Any, parameter: Tensor) -> Any:
    """``value`` spread as ``parameter`` is; the step count and what belongs to unsharded parameters stay whole."""
    if not isinstance(parameter, DTensor) or value.shape != parameter.shape:
        return value
    # Every process has read the same file, so none has to send anything.
    return distribute_tensor(
        value.to(parameter.device), parameter.device_mesh, parameter.placements, src_data_rank=None
    )
