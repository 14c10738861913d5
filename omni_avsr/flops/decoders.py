"""What the LLM and Whisper's decoder compute, each described in the order of its forward pass."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from peft.tuners.lora import LoraLayer
from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.models.whisper.modeling_whisper import WhisperDecoder

from omni_avsr.flops.encoders import PAIRS, STEPS, transformer_layer
from omni_avsr.flops.tape import Part, Tape, is_trained, trains_vectors
from omni_avsr.model import OmniAVSR
from omni_avsr.types import Task

LABELS = "labels"
"""Unit: scored positions, the only ones of which logits are made."""
POSITIONS, POSITION_PAIRS, CROSSINGS = "positions", "position_pairs", "crossings"
"""Units of Whisper's decoder, with padding: its positions, pairs of them, and pairs of them with features."""
_QUERIES_KEYS_VALUES = ("q_proj", "k_proj", "v_proj")


def llm_tape(model: OmniAVSR, task: Task, gradient: bool, gradient_checkpointing: bool) -> Tape:
    """A pass of the LLM under the adapters of ``task``, over positions (units ``STEPS`` and ``PAIRS``) and labels.

    gradient: whether its input embeddings need one.
    """
    tape, decoder, head = Tape(), model.llm.get_decoder(), model.llm.get_output_embeddings()
    with model.router.route(task):
        for layer in decoder.modules():
            if isinstance(layer, GradientCheckpointingLayer):
                run = Tape()
                gradient = _llm_layer(run, layer, gradient, model.text.hidden_size)
                tape.include(run)
                if gradient_checkpointing and gradient:
                    tape.recompute(run)
    if model.marker_outputs is not None:
        tape.matrix("logits", LABELS, model.marker_outputs, gradient)
        head = head.get_submodule("base")
    tape.matrix("logits", LABELS, head, gradient)
    return tape


def _llm_layer(tape: Tape, layer: nn.Module, gradient: bool, hidden_size: int) -> bool:
    """A decoder layer of any family: each of its matrices is used once for a position."""
    projections: list[nn.Module] = []
    others: list[nn.Module] = []
    for name, module in _matrices(layer):
        (projections if name.rpartition(".")[2] in _QUERIES_KEYS_VALUES else others).append(module)
    if len(projections) == len(_QUERIES_KEYS_VALUES):
        width = _base(projections[0]).out_features
        return transformer_layer(tape, "llm", layer, projections, others, gradient, width)
    # One projection for all three, or names unknown here.
    tape.attention("llm", PAIRS, hidden_size, gradient, gradient, gradient)
    for module in [*projections, *others]:
        gradient = tape.matrix("llm", STEPS, module, gradient)
    return gradient


def _matrices(layer: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The modules that hold a matrix, in the order they were made in; LoRA and what it is on are one."""
    for name, child in layer.named_children():
        if isinstance(child, LoraLayer) or any(value.ndim > 1 for value in child.parameters(recurse=False)):
            yield name, child
        else:
            yield from _matrices(child)


def _base(module: nn.Module) -> nn.Linear:
    base = module.get_base_layer() if isinstance(module, LoraLayer) else module
    assert isinstance(base, nn.Linear)
    return base


def whisper_decoder_tape(decoder: WhisperDecoder, features_gradient: bool) -> Tape:
    """A pass of Whisper's decoder over its own positions and encoder features (unit ``STEPS``)."""
    tape, width = Tape(), decoder.config.d_model
    gradient = is_trained(decoder.embed_tokens) or is_trained(decoder.embed_positions)
    for layer in decoder.layers:
        gradient = _whisper_decoder_layer(tape, layer, gradient, features_gradient, width)
    tape.matrix("logits", LABELS, decoder.embed_tokens, gradient or is_trained(decoder.layer_norm))
    return tape


def _whisper_decoder_layer(tape: Tape, layer: Any, gradient: bool, features_gradient: bool, width: int) -> bool:
    part: Part = "decoder"
    own, cross = layer.self_attn, layer.encoder_attn
    gradient = gradient or trains_vectors(layer)
    needed = [tape.matrix(part, POSITIONS, module, gradient) for module in (own.q_proj, own.k_proj, own.v_proj)]
    gradient = tape.attention(part, POSITION_PAIRS, width, *needed)
    gradient = tape.matrix(part, POSITIONS, own.out_proj, gradient)
    query = tape.matrix(part, POSITIONS, cross.q_proj, gradient)
    key, value = (tape.matrix(part, STEPS, module, features_gradient) for module in (cross.k_proj, cross.v_proj))
    gradient = tape.attention(part, CROSSINGS, width, query, key, value)
    for module in (cross.out_proj, layer.fc1, layer.fc2):
        gradient = tape.matrix(part, POSITIONS, module, gradient)
    return gradient
