"""Gradients of a loss that has several parts, with the graph of one part in memory at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor


class PartwiseLoss:
    """Adds up parts of a loss and takes the gradient of each as soon as it is there, which frees its graph.

    ``total`` then gives their sum as one scalar, whose ``backward`` hands the gradients on that were taken: to
    parameters, and into the graph behind inputs that have one. So the caller sees no difference to a plain sum.

    Parts are simply added without gradients (validation), under float16 autocast, where the scale of the loss has to be
    known before any gradient is taken, and where parameters are spread over processes (fully sharded training), whose
    gradients exist only as one backward pass gathers them.
    """

    def __init__(self, inputs: Sequence[Tensor], device: torch.device) -> None:
        """inputs: all that the parts depend on and that wants a gradient; none of them may depend on another."""
        self.inputs = [tensor for tensor in inputs if tensor.requires_grad]
        self.gradients: list[Tensor | None] = [None] * len(self.inputs)
        plain = _is_float16(device) or any(isinstance(tensor, DTensor) for tensor in self.inputs)
        self.early = torch.is_grad_enabled() and bool(self.inputs) and not plain
        self.sum = torch.zeros((), device=device)

    def add(self, part: Tensor) -> None:
        """Add a scalar. Its graph cannot be used afterwards, but for the part of it that lies behind the inputs."""
        if self.early and part.requires_grad:
            found = torch.autograd.grad(part, self.inputs, allow_unused=True)
            self.gradients = [_sum(known, new) for known, new in zip(self.gradients, found, strict=True)]
            part = part.detach()
        self.sum = self.sum + part

    def total(self) -> Tensor:
        """The sum of the parts."""
        taken = [(tensor, grad) for tensor, grad in zip(self.inputs, self.gradients, strict=True) if grad is not None]
        if not taken:
            return self.sum
        tensors, gradients = zip(*taken, strict=True)
        total: Tensor = _Known.apply(self.sum, gradients, *tensors)
        return total


class _Known(torch.autograd.Function):
    """A value whose gradients are known already."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, gradients: tuple[Tensor, ...], *inputs: Tensor) -> Tensor:
        ctx.gradients = gradients
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (scale,) = grads
        return None, None, *(gradient * scale for gradient in ctx.gradients)


def _sum(known: Tensor | None, new: Tensor | None) -> Tensor | None:
    if known is None or new is None:
        return new if known is None else known
    return known.add_(new)


def _is_float16(device: torch.device) -> bool:
    return torch.is_autocast_enabled(device.type) and torch.get_autocast_dtype(device.type) is torch.float16
