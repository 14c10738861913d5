"""What the encoders compute, each described in the order of its own forward pass."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from omni_avsr.encoders.avhubert import AVHubertEncoder
from omni_avsr.encoders.build import SpeechEncoder
from omni_avsr.encoders.compact_audio import CompactAudioEncoder
from omni_avsr.encoders.compact_video import CompactVideoEncoder
from omni_avsr.encoders.self_supervised import SelfSupervisedEncoder
from omni_avsr.encoders.whisper import WhisperEncoder
from omni_avsr.features import FRAMES_THAT_HEAR_THE_END, MOUTH_CROP, N_FFT, NUM_MELS, num_mel_frames
from omni_avsr.flops.tape import Part, Tape, is_trained, trains_vectors

STEPS, PAIRS, FRAMES, MEL_FRAMES = "steps", "pairs", "frames", "mel_frames"
"""Units: computed features and pairs of them, those of padding too; real video frames; log-mel frames with padding."""
_POSITIONS = "positions"
"""Of the positional convolution, which with an even kernel makes one more than there are steps."""
_SPECTRA, _SPECTRUM = "spectra", N_FFT // 2 + 1
"""Log-mel frames before those behind the longest clip are cut, and the frequencies of one."""

Sizes = Mapping[str, float]


@dataclass(frozen=True)
class EncoderCost:
    """What one encoder computes.

    gradient: whether its features need one.
    sizes: from the lengths of a batch [B], in samples or frames, how many of each unit it computes.
    num_features: from the same lengths, the lengths of its features [B].
    """

    tape: Tape
    gradient: bool
    sizes: Callable[[Tensor], Sizes]
    num_features: Callable[[Tensor], Tensor]


def encoder_cost(speech: SpeechEncoder) -> EncoderCost:
    """Describe an encoder with what is trained in it now."""
    tape, encoder = Tape(), speech.encoder
    match encoder:
        case WhisperEncoder():
            return EncoderCost(
                tape, _whisper(tape, encoder), lambda n: _whisper_sizes(encoder, n), encoder.front.num_features
            )
        case SelfSupervisedEncoder():
            return EncoderCost(
                tape,
                _self_supervised(tape, encoder),
                lambda n: _self_supervised_sizes(encoder, n),
                encoder.front.num_features,
            )
        case CompactAudioEncoder():
            return EncoderCost(
                tape,
                _compact_audio(tape, encoder),
                lambda n: _compact_audio_sizes(encoder, n),
                encoder.front.num_features,
            )
        case CompactVideoEncoder():
            return EncoderCost(tape, _compact_video(tape, encoder), _video_sizes, torch.clone)
        case AVHubertEncoder():
            return EncoderCost(tape, _avhubert(tape, encoder), _video_sizes, torch.clone)
        case _:
            raise ValueError(f"the FLOPs of {type(encoder).__name__} are not known; describe it in {__name__}")


def transformer_layer(
    tape: Tape,
    part: Part,
    layer: nn.Module,
    queries_keys_values: Sequence[nn.Module],
    others: Sequence[nn.Module],
    gradient: bool,
    width: int,
) -> bool:
    """Self-attention after three projections, then ``others``: the output projection and the feed-forward matrices."""
    gradient = gradient or trains_vectors(layer)
    needed = [tape.matrix(part, STEPS, module, gradient) for module in queries_keys_values]
    gradient = tape.attention(part, PAIRS, width, *needed)
    for module in others:
        gradient = tape.matrix(part, STEPS, module, gradient)
    return gradient


def padded_sizes(lengths: Tensor) -> dict[str, float]:
    """Steps and pairs of them that a padded batch computes."""
    rows, longest = len(lengths), int(lengths.max())
    return {STEPS: rows * longest, PAIRS: rows * longest**2}


def _whisper(tape: Tape, encoder: WhisperEncoder) -> bool:
    part: Part = "audio_encoder"
    inner: Any = encoder.encoder
    tape.product(part, MEL_FRAMES, 2.0 * encoder.front.num_mels * _SPECTRUM, False, False)
    gradient = tape.convolution(part, MEL_FRAMES, inner.conv1, False)
    gradient = tape.convolution(part, _POSITIONS, inner.conv2, gradient) or is_trained(inner.embed_positions)
    for layer in inner.layers:
        attention = layer.self_attn
        qkv, others = (attention.q_proj, attention.k_proj, attention.v_proj), (attention.out_proj, layer.fc1, layer.fc2)
        gradient = transformer_layer(tape, part, layer, qkv, others, gradient, encoder.output_dim)
    return gradient or is_trained(inner.layer_norm)


def _whisper_sizes(encoder: WhisperEncoder, lengths: Tensor) -> Sizes:
    num_mel, num_positions = encoder.front.num_computed(lengths)
    rows = len(lengths)
    return {
        MEL_FRAMES: rows * num_mel,
        _POSITIONS: rows * math.ceil(num_mel / 2),
        STEPS: rows * num_positions,
        PAIRS: rows * num_positions**2,
    }


def _compact_audio(tape: Tape, encoder: CompactAudioEncoder) -> bool:
    part: Part = "audio_encoder"
    tape.product(part, _SPECTRA, 2.0 * NUM_MELS * _SPECTRUM, False, False)
    gradient = tape.convolution(part, MEL_FRAMES, encoder.conv1, False)
    gradient = tape.convolution(part, STEPS, encoder.conv2, gradient)
    return _layers_of_trunk(tape, part, encoder.trunk.layers, gradient) or is_trained(encoder.trunk.norm)


def _compact_audio_sizes(encoder: CompactAudioEncoder, lengths: Tensor) -> Sizes:
    rows, num_mel = len(lengths), num_mel_frames(lengths)
    longest = int(num_mel.max())
    audio = {_SPECTRA: rows * (longest + FRAMES_THAT_HEAR_THE_END), MEL_FRAMES: rows * longest}
    return audio | padded_sizes(encoder.front.num_features(lengths))


def _layers_of_trunk(tape: Tape, part: Part, layers: Iterable[Any], gradient: bool) -> bool:
    for layer in layers:
        gradient = gradient or trains_vectors(layer)
        conv, attention, feed_forward = layer.conv, layer.attention, layer.feed_forward
        gradient = tape.matrix(part, STEPS, conv.expand, gradient)
        gradient = tape.convolution(part, STEPS, conv.depthwise, gradient)
        for module in (conv.out, attention.qkv):
            gradient = tape.matrix(part, STEPS, module, gradient)
        gradient = tape.attention(part, PAIRS, attention.out.in_features, gradient, gradient, gradient)
        for module in (attention.out, feed_forward[1], feed_forward[4]):
            gradient = tape.matrix(part, STEPS, module, gradient)
    return gradient


def _self_supervised(tape: Tape, encoder: SelfSupervisedEncoder) -> bool:
    part: Part = "audio_encoder"
    model: Any = encoder.model
    gradient = False
    for number, block in enumerate(model.feature_extractor.conv_layers):
        gradient = tape.convolution(part, f"convolution_{number}", block.conv, gradient) or is_trained(block)
    projection, position = model.feature_projection.projection, model.encoder.pos_conv_embed.conv
    gradient = gradient or is_trained(model.feature_projection)
    gradient = tape.matrix(part, STEPS, projection, gradient)
    gradient = tape.convolution(part, _POSITIONS, position, gradient) or is_trained(model.encoder.layer_norm)
    for layer in model.encoder.layers:
        attention, feed_forward = layer.attention, layer.feed_forward
        if model.config.model_type == "wavlm":
            # The gate of the position bias, for each head alone.
            gate = 2.0 * attention.gru_rel_pos_linear.weight.numel() * attention.num_heads
            tape.product(part, STEPS, gate, gradient, is_trained(attention.gru_rel_pos_linear))
        qkv = attention.q_proj, attention.k_proj, attention.v_proj
        others = attention.out_proj, feed_forward.intermediate_dense, feed_forward.output_dense
        gradient = transformer_layer(tape, part, layer, qkv, others, gradient, encoder.output_dim)
    return gradient


def _self_supervised_sizes(encoder: SelfSupervisedEncoder, lengths: Tensor) -> Sizes:
    convolved = encoder.front.convolved(lengths)
    sizes = padded_sizes(convolved[-1])
    even = 1 - encoder.model.config.num_conv_pos_embeddings % 2
    clip_by_clip = {f"convolution_{number}": int(found.sum()) for number, found in enumerate(convolved)}
    return {**sizes, **clip_by_clip, _POSITIONS: sizes[STEPS] + even * len(lengths)}


def _compact_video(tape: Tape, encoder: CompactVideoEncoder) -> bool:
    gradient = _resnet(tape, encoder.stem, encoder.resnet, encoder.config.image_size)
    gradient = tape.matrix("video_front_end", FRAMES, encoder.project, gradient)
    trunk = encoder.trunk
    return _layers_of_trunk(tape, "video_encoder", trunk.layers, gradient) or is_trained(trunk.norm)


def _avhubert(tape: Tape, encoder: AVHubertEncoder) -> bool:
    gradient = _resnet(tape, encoder.resnet.stem, encoder.resnet.blocks, MOUTH_CROP)
    gradient = tape.matrix("video_front_end", FRAMES, encoder.project, gradient) or is_trained(encoder.fusion_norm)
    part: Part = "video_encoder"
    gradient = tape.matrix(part, FRAMES, encoder.fuse, gradient)
    gradient = tape.convolution(part, _POSITIONS, encoder.position, gradient)
    share = 1 - encoder.layer_drop if encoder.training else 1.0
    layers: Iterable[Any] = encoder.layers
    for layer in layers:
        run, qkv = Tape(), (layer.q_proj, layer.k_proj, layer.v_proj)
        gradient = transformer_layer(
            run, part, layer, qkv, (layer.out_proj, layer.fc1, layer.fc2), gradient, encoder.output_dim
        )
        tape.include(run, share)
    return gradient or is_trained(encoder.norm)


def _resnet(tape: Tape, stem: Any, blocks: Iterable[Any], side: int) -> bool:
    """Convolutions over pictures of ``side`` x ``side`` pixels: by the places of their outputs."""
    part: Part = "video_front_end"
    first, pool = stem[0], stem[3]
    side = _side(side, first.kernel_size[0], first.stride[0], first.padding[0])
    gradient = tape.convolution(part, FRAMES, first, False, side**2) or is_trained(stem)
    side = _side(side, pool.kernel_size, pool.stride, pool.padding)
    for block in blocks:
        first = block.conv1
        side = _side(side, first.kernel_size[0], first.stride[0], first.padding[0])
        inner = tape.convolution(part, FRAMES, first, gradient, side**2) or trains_vectors(block)
        outputs = [tape.convolution(part, FRAMES, block.conv2, inner, side**2)]
        if len(block.shortcut):
            outputs.append(tape.convolution(part, FRAMES, block.shortcut[0], gradient, side**2))
        gradient = gradient or any(outputs)
    return gradient


def _side(side: int, kernel: int, stride: int, padding: int) -> int:
    return (side + 2 * padding - kernel) // stride + 1


def _video_sizes(lengths: Tensor) -> Sizes:
    sizes = padded_sizes(lengths)
    return {**sizes, FRAMES: int(lengths.sum()), _POSITIONS: sizes[STEPS] + len(lengths)}
