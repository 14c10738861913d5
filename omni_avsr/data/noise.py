"""Background noise at a chosen signal-to-noise ratio."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from omni_avsr.data.activity import speech_activity
from omni_avsr.data.noise_recording import Recording, piece

SnrOver = Literal["speech", "clip"]

MIXING_VERSION = 2
"""Changes whenever the same recordings and generator give other mixtures: what was made before is made anew."""
LARGEST_SAMPLE = 1 - 2**-15
"""The largest that a 16-bit file can hold."""
SILENCE_POWER = 1e-8
"""Power (-80 dB of full scale) below which 16-bit noise is hardly more than rounding."""
LOWEST_SHARE = 0.01
"""Of a piece's power, at least this much must sound during speech; a bang in a pause would drown it otherwise."""
MAX_DRAWS = 100


class NoiseSource:
    """Recordings of noise from which pieces are mixed into speech.

    snr_over: where powers are measured. "speech" is the part in which somebody speaks (``speech_activity``), so that
        pauses do not change what a ratio means; "clip" is the whole clip, as in Omni-AVSR's published code.
    """

    def __init__(self, recordings: Sequence[Recording], snr_over: SnrOver = "speech") -> None:
        if not recordings:
            raise ValueError("there is no recording of noise")
        self.recordings, self.snr_over = tuple(recordings), snr_over

    @property
    def fingerprint(self) -> str:
        """Hash of all that a mixture depends on beside speech, ratio and generator; names and places do not matter."""
        parts = [MIXING_VERSION, self.snr_over, [recording.sha256 for recording in self.recordings]]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def mix(self, waveform: Tensor, snr_db: float, generator: torch.Generator) -> Tensor:
        """Add a random piece of noise so that speech power over noise power is ``snr_db``.

        Args:
            waveform: [samples] float32 speech. Silence has no ratio to anything: it stays as it is.
            snr_db: any finite ratio in dB; 0 is 0 dB.
            generator: draws one of the recordings, and where in it the piece starts.

        Returns:
            [samples] float32. Where the sum would pass full scale, speech and noise are both made quieter.

        Raises:
            ValueError: no piece was found that sounds during the speech.
        """
        if not bool(waveform.any()):
            return waveform
        active = speech_activity(waveform) if self.snr_over == "speech" else torch.ones_like(waveform, dtype=torch.bool)
        noise = self._draw(active, generator)
        ratio = _power(waveform[active]) / _power(noise[active])
        mixed = waveform + noise * (ratio * 10 ** (-snr_db / 10)) ** 0.5
        peak = float(mixed.abs().max())
        if peak <= LARGEST_SAMPLE:
            return mixed
        return (mixed * (LARGEST_SAMPLE / peak)).clamp(-LARGEST_SAMPLE, LARGEST_SAMPLE)  # but for rounding

    def _draw(self, active: Tensor, generator: torch.Generator) -> Tensor:
        """A piece as long as ``active`` that sounds where that is true; others are drawn again."""
        for _ in range(MAX_DRAWS):
            recording = self.recordings[int(torch.randint(len(self.recordings), (), generator=generator))]
            start = int(torch.randint(recording.num_samples, (), generator=generator))
            noise = piece(recording, start, len(active))
            if _power(noise[active]) >= max(SILENCE_POWER, LOWEST_SHARE * _power(noise)):
                return noise
        raise ValueError(
            f"{MAX_DRAWS} pieces of noise were drawn, such as one from {recording.id}, and none sounds during the "
            "speech; leave recordings out that are mostly silent"
        )


def _power(samples: Tensor) -> float:
    return float(samples.double().square().mean())
