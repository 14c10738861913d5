"""Linear layers whose float32 products run through oneDNN on the CPU.

torch gives them to MKL, which uses half the width of the vector units of AMD's processors: oneDNN is twice as fast
there, and no slower elsewhere. The numbers are the same up to the order of summing.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

HAS_ONEDNN = (
    torch.backends.mkldnn.is_available()
    and torch.backends.cpu.get_cpu_capability() == "AVX512"
    and hasattr(torch.ops.mkldnn, "_linear_pointwise")
)
"""Whether it makes a difference (below AVX-512 both use the whole width), and torch has the product by itself."""
MIN_ROWS = 16
"""Rows of input below which MKL is as fast."""


class OneDNNLinear(nn.Linear):
    """``nn.Linear`` in all but speed; other devices, dtypes, autocast and traced graphs take its own way."""

    def forward(self, input: Tensor) -> Tensor:
        fits = input.device.type == "cpu" and input.dtype == self.weight.dtype == torch.float32
        # A traced graph is for others to run, and the length of its example must not choose its product.
        fits = fits and not torch.compiler.is_compiling() and not torch.is_autocast_enabled("cpu")
        if fits and input.numel() >= MIN_ROWS * self.in_features:
            output: Tensor = _Product.apply(input, self.weight, self.bias)
            return output
        return super().forward(input)


def use_onednn(model: nn.Module) -> None:
    """Make every plain linear layer of ``model`` a ``OneDNNLinear``, in place, where that is faster."""
    if HAS_ONEDNN:
        for module in model.modules():
            if type(module) is nn.Linear:
                module.__class__ = OneDNNLinear


class _Product(torch.autograd.Function):
    """input [..., K], weight [N, K], bias [N] or None -> [..., N]."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        # As torch's own does, the input of a frozen weight is not kept. A frozen weight is not saved but named: a layer
        # under gradient checkpointing is computed again only up to its last saved tensor, so not this product for it.
        ctx.weight = weight
        if ctx.needs_input_grad[1]:
            ctx.save_for_backward(input, weight)
        return _linear(input, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        rows = grad.reshape(-1, grad.shape[-1])
        of_input = of_weight = of_bias = None
        if ctx.needs_input_grad[0]:
            of_input = _linear(rows, ctx.weight.t(), None).view(*grad.shape[:-1], -1)
        if ctx.needs_input_grad[1]:
            input, _ = ctx.saved_tensors
            of_weight = _linear(rows.t(), input.reshape(-1, input.shape[-1]).t(), None)
        if ctx.needs_input_grad[2]:
            of_bias = rows.sum(0)
        return of_input, of_weight, of_bias


def _linear(input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    product: Tensor = torch.ops.mkldnn._linear_pointwise(input, weight, bias, "none", [], "")
    return product
