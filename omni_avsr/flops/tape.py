"""How FLOPs are counted: products in the order of a forward pass, and what autograd makes of each on the way back.

A multiplication and an addition are two FLOPs. A product with N weights costs 2*N for every position, again 2*N when
its input needs a gradient, and 2*N more when the weights are trained. So a trained transformer comes to 6*N a token, a
frozen one below everything trained to 2*N, a frozen one above it to 4*N, LoRA's base to 4*N and its own n weights to
6*n. A convolution costs 2*N for every place of its output. Attention counts all pairs of positions, masked and future
ones too, as torch's FLOP counter does and as kernels with a mask compute them.

Left out: norms, activations, softmax, embeddings, losses, Fourier transforms, the optimizer, and what fused attention
kernels compute a second time in the backward pass.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

Part = Literal[
    "audio_encoder",
    "video_front_end",
    "video_encoder",
    "heads",
    "decoder",
    "projector",
    "llm",
    "adapters",
    "logits",
]
"""``heads`` are CTC's and frame targets', ``decoder`` is Whisper's; LoRA in an encoder counts as the encoder's."""


PARTS: tuple[Part, ...] = get_args(Part)

Costs = dict[tuple[Part, str], float]


@dataclass(frozen=True)
class Flops:
    """FLOPs by part; what gradient checkpointing computes again is in ``backward``."""

    forward: Mapping[str, float] = field(default_factory=dict)
    backward: Mapping[str, float] = field(default_factory=dict)

    def __add__(self, other: Flops) -> Flops:
        return Flops(_sum(self.forward, other.forward), _sum(self.backward, other.backward))

    def table(self) -> Tensor:
        """[2, parts] float64: forward and backward FLOPs of every ``Part``, for sums over processes."""
        return torch.tensor(
            [[way.get(part, 0.0) for part in PARTS] for way in (self.forward, self.backward)], dtype=torch.float64
        )

    @classmethod
    def from_table(cls, table: Tensor) -> Flops:
        """What ``table`` gave; parts without FLOPs are left out."""
        forward, backward = (
            {str(part): float(flops) for part, flops in zip(PARTS, way, strict=True) if flops} for way in table.tolist()
        )
        return cls(forward, backward)

    @property
    def parts(self) -> Mapping[str, float]:
        """Forward and backward together."""
        return _sum(self.forward, self.backward)

    @property
    def total(self) -> float:
        return sum(self.parts.values())


def _sum(one: Mapping[str, float], other: Mapping[str, float]) -> dict[str, float]:
    return {part: one.get(part, 0.0) + other.get(part, 0.0) for part in dict.fromkeys([*one, *other])}


class Tape:
    """FLOPs for one of each unit (a frame, a step, a pair of steps), added up as a forward pass is described.

    ``gradient`` everywhere says whether an input needs one; what a method returns says it of the output.
    """

    def __init__(self) -> None:
        self.forward: Costs = {}
        self.backward: Costs = {}
        self.last: tuple[tuple[Part, str], float] | None = None

    def product(self, part: Part, unit: str, flops: float, gradient: bool, trained: bool) -> bool:
        """A product of ``flops`` for one ``unit`` with weights that are ``trained`` or not."""
        self.last = (part, unit), flops
        _add(self.forward, {(part, unit): flops})
        _add(self.backward, {(part, unit): flops * (gradient + trained)})
        return gradient or trained

    def attention(self, part: Part, unit: str, width: int, query: bool, key: bool, value: bool) -> bool:
        """Scores and weighted values of queries of ``width``, all heads together; which inputs need a gradient."""
        half = 2.0 * width
        _add(self.forward, {(part, unit): 2 * half})
        _add(self.backward, {(part, unit): half * (query + key + (query or key) + value)})
        return query or key or value

    def matrix(self, part: Part, unit: str, module: nn.Module, gradient: bool) -> bool:
        """A linear layer, or any other module by the matrices it holds, with the LoRA that is active on it now."""
        if not isinstance(module, LoraLayer):
            weights = _num_weights(module)
            return self.product(part, unit, 2.0 * weights, gradient, is_trained(module))
        needed = self.matrix(part, unit, module.get_base_layer(), gradient)
        own: Part = "adapters" if part == "llm" else part
        for name in module.active_adapters:
            below = self.matrix(own, unit, module.lora_A[name], gradient)
            needed = self.matrix(own, unit, module.lora_B[name], below) or needed
        return needed

    def convolution(
        self, part: Part, unit: str, module: nn.Conv1d | nn.Conv2d, gradient: bool, places: float = 1.0
    ) -> bool:
        """A convolution with ``places`` places of its output for one ``unit``."""
        # Not from the weight, which weight norm would compute anew.
        weights = module.out_channels * module.in_channels // module.groups * math.prod(module.kernel_size)
        return self.product(part, unit, 2.0 * weights * places, gradient, is_trained(module))

    def include(self, other: Tape, share: float = 1.0) -> None:
        """Add what ``other`` describes, of which ``share`` is run."""
        _add(self.forward, other.forward, share)
        _add(self.backward, other.backward, share)

    def recompute(self, other: Tape) -> None:
        """Add what gradient checkpointing of ``other`` computes again: all but its last product."""
        assert other.last is not None
        _add(self.backward, other.forward)
        _add(self.backward, dict([other.last]), -1.0)

    def flops(self, sizes: Mapping[str, float], graph: bool = True) -> Flops:
        """FLOPs for so many of each unit. graph: whether a backward pass follows."""
        return Flops(_times(self.forward, sizes), _times(self.backward, sizes) if graph else {})


def _num_weights(module: nn.Module) -> int:
    if isinstance(module, nn.Linear):
        return module.in_features * module.out_features  # not its elements: a quantised one packs several in each
    return sum(value.numel() for value in module.parameters(recurse=False) if value.ndim > 1)


def _add(costs: Costs, more: Mapping[tuple[Part, str], float], share: float = 1.0) -> None:
    for key, flops in more.items():
        costs[key] = costs.get(key, 0.0) + share * flops


def _times(costs: Costs, sizes: Mapping[str, float]) -> dict[str, float]:
    found: dict[str, float] = {}
    for (part, unit), flops in costs.items():
        found[part] = found.get(part, 0.0) + flops * sizes[unit]
    return found


def is_trained(module: nn.Module) -> bool:
    return any(value.requires_grad for value in module.parameters())


def trains_vectors(module: nn.Module) -> bool:
    """Whether a norm or a bias of ``module`` is trained: then a gradient is taken to reach the module's start."""
    return any(value.requires_grad and value.ndim == 1 for value in module.parameters())
