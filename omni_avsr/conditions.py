"""What a clip is heard and seen with at a test: itself, noise, another clip's video, or all of another clip."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor

from omni_avsr.data.augment import AugmentConfig
from omni_avsr.data.dataset import ClipReader, example_generator
from omni_avsr.data.noise import NoiseSource
from omni_avsr.types import Clip, Modality

SWAPPED = "swapped video"
"""The condition of clips that are shown with another clip's video."""
ZeroDb = Literal["exact", "published"]
"""What 0 dB means: the published code takes 0 for no level given, and draws one (Omni-AVSR 1.8 D3)."""
PUBLISHED_LEVELS = AugmentConfig().snr_db
SHUFFLED = "shuffled inputs"
"""The condition of clips whose every input is another clip's: how well a model guesses without any."""


class ConditionInputs:
    """The inputs of a test set's clips under any condition, as decoded (not yet normalised)."""

    def __init__(
        self,
        clips: Sequence[Clip],
        reader: ClipReader,
        noise: NoiseSource | None,
        seed: int,
        zero_db: ZeroDb = "exact",
    ) -> None:
        """seed: places the noise. zero_db: published draws one of the training levels for each clip at 0 dB."""
        self.clips, self.reader, self.noise, self.seed, self.zero_db = clips, reader, noise, seed, zero_db

    def waveform(self, index: int, own: Tensor, snr_db: float | None, condition: str) -> Tensor:
        """[samples] of clip ``index``, whose waveform is ``own``; as long as that one."""
        waveform = self._of_another(index, Modality.AUDIO, len(own), True) if condition == SHUFFLED else own
        if snr_db is None:
            return waveform
        assert self.noise is not None
        # By the clip's name, so that the noise does not depend on what else is in the test set.
        generator = example_generator(self.seed, 0, zlib.crc32(self.clips[index].id.encode()))
        if snr_db == 0 and self.zero_db == "published":
            drawn = PUBLISHED_LEVELS[int(torch.randint(len(PUBLISHED_LEVELS), (), generator=generator))]
            if drawn is None:
                return waveform
            snr_db = drawn
        return self.noise.mix(waveform, snr_db, generator)

    def video(self, index: int, own: Tensor, condition: str) -> Tensor:
        """[frames, size, size] of clip ``index``, whose crops are ``own``; as long as those."""
        if condition in (SWAPPED, SHUFFLED):
            return self._of_another(index, Modality.VIDEO, len(own), condition == SHUFFLED)
        return own

    def _of_another(self, index: int, modality: Modality, length: int, alike: bool) -> Tensor:
        """An input of another clip with another text, cut or held to ``length``.

        ``alike``: of the clip whose length comes closest; otherwise of the next one.
        """
        for other in self._others(index, alike):
            if other.text == self.clips[index].text or modality not in other.modalities:
                continue
            try:
                values = self.reader.waveform(other) if modality is Modality.AUDIO else self.reader.video(other)
            except (OSError, ValueError):
                continue  # it is left out when its own turn comes
            if values is not None:
                held = values[-1:].expand(max(0, length - len(values)), *values.shape[1:])
                return torch.cat([values, held])[:length]
        raise ValueError(f"no other clip than {self.clips[index].id} has {modality} of another text to put in")

    def _others(self, index: int, alike: bool) -> Iterator[Clip]:
        others = [self.clips[(index + step) % len(self.clips)] for step in range(1, len(self.clips))]
        seconds = self.clips[index].seconds
        yield from sorted(others, key=lambda other: abs(other.seconds - seconds)) if alike else others
