"""What encoders hold at once at most in a forward pass without gradients, weights apart."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from omni_avsr.encoders.avhubert import FRAMES_AT_ONCE, STEM_FRAMES, AVHubertEncoder
from omni_avsr.encoders.build import SpeechEncoder
from omni_avsr.encoders.compact_audio import CompactAudioEncoder
from omni_avsr.encoders.compact_video import CompactVideoEncoder
from omni_avsr.encoders.self_supervised import SelfSupervisedEncoder
from omni_avsr.encoders.whisper import WhisperEncoder
from omni_avsr.features import HOP, MOUTH_CROP, N_FFT, NUM_MELS, num_mel_frames
from omni_avsr.flops.encoders import MEL_FRAMES, PAIRS, STEPS, encoder_cost

FLOAT32 = 4
_SPECTRUM = N_FFT // 2 + 1
_COMPLEX = 8
_WIDENING = 4
"""Width of a compact encoder's feed-forward layers, in its own."""


def encoder_activations(speech: SpeechEncoder, lengths: Tensor) -> int:
    """Bytes for clips of ``lengths`` [B] samples or frames: the most of its steps, which follow one another.

    ValueError for encoders that are not described here.
    """
    encoder, sizes = speech.encoder, encoder_cost(speech).sizes(lengths)
    steps = int(sizes[STEPS])
    match encoder:
        case WhisperEncoder():
            return _whisper(encoder, int(sizes[MEL_FRAMES]), steps)
        case SelfSupervisedEncoder():
            return _self_supervised(encoder, int(lengths.max()), steps, int(sizes[PAIRS]))
        case CompactAudioEncoder():
            frames = len(lengths) * int(num_mel_frames(lengths).max())
            width = encoder.output_dim
            trunk = _layers(steps, width, _WIDENING * width, FLOAT32)
            return max(_log_mel(frames, NUM_MELS), 3 * frames * width * FLOAT32, trunk)
        case AVHubertEncoder():
            return _avhubert(encoder, int(lengths.sum()), steps)
        case CompactVideoEncoder():
            return _compact_video(encoder, int(lengths.sum()), steps)
        case _:
            raise ValueError(f"the memory of {type(encoder).__name__} is not known; describe it in {__name__}")


def _layers(steps: int, width: int, widened: int, itemsize: int) -> int:
    """A transformer layer is fullest behind its widening: its input, twice and normalised, and two wide tensors."""
    return steps * (3 * width + 2 * widened) * itemsize


def _log_mel(frames: int, num_mels: int) -> int:
    """The waveform three times, its spectrum and the powers of it, or three times what comes of them."""
    spectra = frames * (3 * HOP * FLOAT32 + _SPECTRUM * (_COMPLEX + 2 * FLOAT32))
    return max(spectra, frames * (_SPECTRUM + 3 * num_mels) * FLOAT32)


def _whisper(encoder: WhisperEncoder, frames: int, steps: int) -> int:
    inner: Any = encoder.encoder
    itemsize, width = inner.conv1.weight.element_size(), encoder.output_dim
    # The second convolution sets its weights in another order for each call.
    convolutions = (2 * frames + steps) * width * itemsize + _bytes(inner.conv2)
    layers = _layers(steps, width, inner.layers[0].fc1.out_features, itemsize)
    num_mels = encoder.front.num_mels
    return max(_log_mel(frames, num_mels), frames * num_mels * FLOAT32 + max(convolutions, layers))


def _self_supervised(encoder: SelfSupervisedEncoder, longest: int, steps: int, pairs: int) -> int:
    config, itemsize = encoder.model.config, encoder.model.dtype.itemsize
    # One clip at a time: input, output and its norm or activation of the first convolution.
    convolutions = 3 * (longest // encoder.front.strides[0]) * config.conv_dim[0] * itemsize
    biases = 2 * config.num_attention_heads * pairs * itemsize if config.model_type == "wavlm" else 0
    layers = _layers(steps, encoder.output_dim, config.intermediate_size, itemsize)
    return max(convolutions, biases + layers)


def _avhubert(encoder: AVHubertEncoder, frames: int, steps: int) -> int:
    itemsize, width = encoder.fuse.weight.element_size(), encoder.output_dim
    given = 2 * frames * MOUTH_CROP**2 * itemsize
    together = min(frames, FRAMES_AT_ONCE)
    stem = encoder.resnet.stem[0]
    assert isinstance(stem, nn.Conv2d)
    pictures = 2 * together * (STEM_FRAMES * MOUTH_CROP**2 + stem.out_channels * (MOUTH_CROP // 2) ** 2) * itemsize
    # Weight norm computes the weights of the positional convolution, by way of their squares.
    position = 2 * _bytes(encoder.position) + 3 * steps * width * itemsize
    layer: Any = encoder.layers[0]
    return max(given + pictures, position, _layers(steps, width, layer.fc1.out_features, itemsize))


def _compact_video(encoder: CompactVideoEncoder, frames: int, steps: int) -> int:
    config = encoder.config
    given = frames * (MOUTH_CROP**2 + config.image_size**2) * FLOAT32
    stacked = frames * STEM_FRAMES * config.image_size**2 * FLOAT32
    stem = 2 * frames * config.channels[0] * (config.image_size // 2) ** 2 * FLOAT32
    return max(given + stacked + max(stacked, stem), _layers(steps, config.dim, _WIDENING * config.dim, FLOAT32))


def _bytes(module: nn.Module) -> int:
    return sum(value.nbytes for value in module.parameters())
