"""Torch's FLOP counter, set right where it is wrong, against which the ledger is tested."""

from collections.abc import Callable, Sequence
from typing import Any

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


def counted(forward: Callable[[], Tensor]) -> tuple[int, int]:
    """FLOPs of ``forward``, which gives a loss, and of its backward pass (none when the loss needs no gradient)."""
    # The fused attention of CPUs is not in torch's registry, so attention runs as the two products that it is.
    mapping = {torch.ops.aten.convolution_backward: _convolution_backward}
    with sdpa_kernel(SDPBackend.MATH):
        with FlopCounterMode(display=False, custom_mapping=mapping) as there:
            loss = forward()
        if not loss.requires_grad:
            return there.get_total_flops(), 0
        with FlopCounterMode(display=False, custom_mapping=mapping) as back:
            loss.backward()
    return there.get_total_flops(), back.get_total_flops()


def deviations(found: Sequence[float], expected: Sequence[float]) -> list[float]:
    """Relative differences of forward and backward FLOPs."""
    return [one / other - 1 if other else float(one != 0) for one, other in zip(found, expected, strict=True)]
