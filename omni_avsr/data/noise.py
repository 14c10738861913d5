"""Background noise at a chosen signal-to-noise ratio."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from omni_avsr.media import read_audio


class NoiseSource:
    """A recording of noise from which pieces are mixed into speech."""

    def __init__(self, samples: Tensor) -> None:
        if not len(samples) or not bool(samples.any()):
            raise ValueError("the noise recording is empty or silent")
        self.samples = samples

    @classmethod
    def read(cls, path: Path) -> NoiseSource:
        """Read any audio file as 16 kHz mono noise."""
        return cls(torch.from_numpy(read_audio(path)))

    def mix(self, waveform: Tensor, snr_db: float, generator: torch.Generator) -> Tensor:
        """Add a random piece of the noise so that speech power over noise power is ``snr_db`` over the clip.

        Args:
            waveform: [samples] float32 speech.
            snr_db: any finite ratio in dB; 0 is 0 dB.
            generator: draws where in the recording the piece starts; the recording repeats when it is too short.
        """
        start = int(torch.randint(len(self.samples), (), generator=generator))
        noise = self.samples[(start + torch.arange(len(waveform))) % len(self.samples)]
        noise_power = noise.square().mean()
        if noise_power == 0:
            return waveform
        scale = (waveform.square().mean() / noise_power * 10 ** (-snr_db / 10)).sqrt()
        return waveform + scale * noise
