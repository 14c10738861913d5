"""The gated feed-forward layers of Llama and Qwen2, keeping two wide tensors for the backward pass instead of three."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from transformers.activations import SiLUActivation
from transformers.models.llama.modeling_llama import LlamaMLP
from transformers.models.qwen2.modeling_qwen2 import Qwen2MLP


class _Lean(nn.Module):
    gate_proj: nn.Linear
    up_proj: nn.Linear
    down_proj: nn.Linear

    def forward(self, x: Tensor) -> Tensor:
        gated: Tensor = self.down_proj(_Gate.apply(self.gate_proj(x), self.up_proj(x)))
        return gated


class LeanLlamaMLP(_Lean, LlamaMLP):
    """``LlamaMLP`` in all but memory."""


class LeanQwen2MLP(_Lean, Qwen2MLP):
    """``Qwen2MLP`` in all but memory."""


_LEAN: dict[type[nn.Module], type[nn.Module]] = {LlamaMLP: LeanLlamaMLP, Qwen2MLP: LeanQwen2MLP}


def use_lean_mlps(llm: nn.Module) -> None:
    """Change the feed-forward layers of ``llm`` in place where they are of a kind that is known here."""
    for module in llm.modules():
        if type(module) in _LEAN and isinstance(module.act_fn, SiLUActivation):
            module.__class__ = _LEAN[type(module)]


class _Gate(torch.autograd.Function):
    """silu(gate) * up. torch would keep silu(gate) too, which costs next to nothing to compute again."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return F.silu(gate).mul_(up)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        return torch.ops.aten.silu_backward(grad * up, gate), F.silu(gate).mul_(grad)
