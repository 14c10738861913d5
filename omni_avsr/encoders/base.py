"""The contract every encoder keeps; the model never asks which one it holds."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor

from omni_avsr.encoders.fronts import AnyFront
from omni_avsr.types import Features


class Encoder(Protocol):
    """Turns padded raw inputs into padded features.

    output_dim: width of a feature vector.
    frame_rate: features per second of input.
    max_seconds: longest clip that it takes; infinite for an encoder without a fixed context.
    """

    output_dim: int
    frame_rate: float
    max_seconds: float

    def __call__(self, inputs: Features) -> Features:
        """Encode.

        Args:
            inputs: waveforms [B, samples] at 16 kHz, or mouth crops [B, frames, height, width] at 25 fps.

        Returns:
            Features [B, time, output_dim]. Zeros stand behind each row's length, and a clip's own features are the same
            alone and in any batch.

        Raises:
            ValueError: a clip is empty, or longer than the encoder's context.
        """
        ...


@runtime_checkable
class TorchEncoder(Encoder, Protocol):
    """An encoder whose weights are torch's.

    Split between what it does to a clip before its first weight and all the rest, so that the rest can be exported.
    """

    front: AnyFront

    def encode_clip(self, values: Tensor) -> Tensor:
        """What ``front.clip_input`` makes of one clip, [1, ...] -> its features [1, T, output_dim].

        As ``__call__`` gives them in eval mode, but without checks and masks: nothing here is padding.
        """
        ...
