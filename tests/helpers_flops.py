"""Torch's FLOP counter, set right where it is wrong, against which the ledger is tested."""

import math
from collections.abc import Callable, Sequence
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count

TOLERANCE = 1e-3
"""Relative; what is left are the log-mel filters, where a test runs an encoder without them."""


def _convolution_backward(grad: Any, x: Any, weight: Any, *settings: Any, out_shape: Any = None, **_: Any) -> int:
    """As torch's, but for the weight's gradient in groups: torch counts all pairs of channels, in a group or not."""
    groups, output_mask = settings[6], settings[7]
    once = conv_flop_count(x, weight, grad)
    assert groups == x[1] // weight[1]
    return once * (bool(output_mask[0]) + bool(output_mask[1]))


def _linear(x: Any, weight: Any, *settings: Any, out_shape: Any = None, **_: Any) -> int:
    """A product by oneDNN, which torch does not know the cost of."""
    return 2 * math.prod(x) * weight[0]


def counted(forward: Callable[[], Tensor]) -> tuple[int, int]:
    """FLOPs of ``forward``, which gives a loss, and of its backward pass (none when the loss needs no gradient).

    Gradients that are taken inside of ``forward`` count as backward.
    """
    # The fused attention of CPUs is not in torch's registry, so attention runs as the two products that it is.
    mapping = {
        torch.ops.aten.convolution_backward: _convolution_backward,
        torch.ops.mkldnn._linear_pointwise: _linear,
    }
    grad, early = torch.autograd.grad, 0

    def counted_grad(*arguments: Any, **settings: Any) -> Any:
        nonlocal early
        with FlopCounterMode(display=False, custom_mapping=mapping) as inside:
            gradients = grad(*arguments, **settings)
        early += inside.get_total_flops()
        return gradients

    with sdpa_kernel(SDPBackend.MATH):
        with FlopCounterMode(display=False, custom_mapping=mapping) as there:
            with patch.object(torch.autograd, "grad", counted_grad):
                loss = forward()
        if not loss.requires_grad:
            return there.get_total_flops(), 0
        with FlopCounterMode(display=False, custom_mapping=mapping) as back:
            loss.backward()
    return there.get_total_flops() - early, back.get_total_flops() + early


def deviations(found: Sequence[float], expected: Sequence[float]) -> list[float]:
    """Relative differences of forward and backward FLOPs."""
    return [one / other - 1 if other else float(one != 0) for one, other in zip(found, expected, strict=True)]
