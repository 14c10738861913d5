"""What the projectors compute, each described in the order of its own forward pass."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from omni_avsr.flops.encoders import PAIRS, STEPS, padded_sizes
from omni_avsr.flops.tape import Flops, Part, Tape, is_trained, trains_vectors
from omni_avsr.projector import AnyProjector, BridgeFormer, MLPProjector

TOKENS, POOLED_PAIRS = "tokens", "pooled_pairs"
"""Units: what a projector gives, and pairs of that and of what it reads; padding too."""
PART: Part = "projector"


@dataclass(frozen=True)
class ProjectorCost:
    """What one projector computes, and how many tokens rows of so many vectors become."""

    tape: Tape
    num_tokens: Callable[[Tensor], Tensor]

    def of(self, lengths: Tensor) -> tuple[Flops, Tensor]:
        """FLOPs for rows of ``lengths`` vectors [B], and the tokens of each [B]."""
        tokens, num_read = self.num_tokens(lengths), int(lengths.max())
        num_given = len(tokens) * int(tokens.max())
        sizes = {**padded_sizes(lengths), TOKENS: num_given, POOLED_PAIRS: num_given * num_read}
        return self.tape.flops(sizes), tokens


def projector_cost(projector: AnyProjector, gradient: bool) -> ProjectorCost:
    """Describe a projector with what is trained in it now; ``gradient``: whether what it reads needs one."""
    tape = Tape()
    match projector:
        case MLPProjector():
            _linear_layers(tape, TOKENS, projector.layers, gradient)
        case BridgeFormer():
            _bridgeformer(tape, projector, gradient)
    return ProjectorCost(tape, projector.num_tokens)


def _linear_layers(tape: Tape, unit: str, layers: nn.Module, gradient: bool) -> bool:
    for layer in layers.modules():
        if isinstance(layer, nn.Linear):
            gradient = tape.matrix(PART, unit, layer, gradient)
    return gradient


def _bridgeformer(tape: Tape, projector: BridgeFormer, gradient: bool) -> None:
    gradient = _linear_layers(tape, STEPS, projector.widen, gradient)
    for layer in projector.encoder.layers:
        assert isinstance(layer, nn.TransformerEncoderLayer)
        attention, width = layer.self_attn, layer.linear1.in_features
        gradient = gradient or trains_vectors(layer)
        # Queries, keys and values come of one matrix, which is a parameter of its own.
        gradient = tape.product(PART, STEPS, 6.0 * width**2, gradient, is_trained(attention))
        gradient = tape.attention(PART, PAIRS, width, gradient, gradient, gradient)
        for module in (attention.out_proj, layer.linear1, layer.linear2):
            gradient = tape.matrix(PART, STEPS, module, gradient)
    gradient = gradient or is_trained(projector.encoder)
    if projector.size is not None:
        gradient = tape.product(PART, POOLED_PAIRS, 2.0 * projector.width, gradient, False)
    _linear_layers(tape, TOKENS, projector.narrow, gradient)
