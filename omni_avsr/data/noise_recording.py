"""Recordings of noise, from which pieces are taken: in memory, or in a file of which only the piece is read."""

from __future__ import annotations

import hashlib
import math
import wave
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from omni_avsr.data.noise_manifest import NoiseClip
from omni_avsr.features import SAMPLE_RATE

FULL_SCALE = 2**15


class Recording(Protocol):
    """Noise at 16 kHz."""

    @property
    def id(self) -> str: ...

    @property
    def sha256(self) -> str:
        """Hash of its samples (``samples_sha256``)."""
        ...

    @property
    def speakers(self) -> tuple[str, ...]: ...

    @property
    def num_samples(self) -> int: ...

    def read(self, start: int, stop: int) -> Tensor:
        """[stop - start] float32, or fewer at the end of the recording."""
        ...


@dataclass(frozen=True)
class MemoryRecording:
    """``samples``: [samples] float32. ValueError when it is empty or silent."""

    samples: Tensor
    id: str = "noise"
    speakers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not bool(self.samples.any()):
            raise ValueError(f"{self.id}: the noise recording is empty or silent")

    @property
    def num_samples(self) -> int:
        return len(self.samples)

    @cached_property
    def sha256(self) -> str:
        return samples_sha256(self.samples.numpy())

    def read(self, start: int, stop: int) -> Tensor:
        return self.samples[start:stop]


@dataclass(frozen=True)
class WaveRecording:
    """A recording of a manifest. ValueError when its file is not what the manifest says."""

    clip: NoiseClip

    def __post_init__(self) -> None:
        found = wave_size(self.clip.audio)
        if found != self.num_samples:
            raise ValueError(
                f"{self.clip.audio}: {found / SAMPLE_RATE:g} s of noise, but the manifest says {self.clip.seconds:g}; "
                "run `omni-avsr noise` again"
            )

    @property
    def id(self) -> str:
        return self.clip.id

    @property
    def sha256(self) -> str:
        return self.clip.sha256

    @property
    def speakers(self) -> tuple[str, ...]:
        return self.clip.speakers

    @property
    def num_samples(self) -> int:
        return round(self.clip.seconds * SAMPLE_RATE)

    def read(self, start: int, stop: int) -> Tensor:
        return torch.from_numpy(read_wave(self.clip.audio, start, stop).astype(np.float32) / FULL_SCALE)


def piece(recording: Recording, start: int, num_samples: int) -> Tensor:
    """[num_samples] float32 from ``start`` on; the recording begins again when it is too short."""
    first = recording.read(start, start + num_samples)
    missing = num_samples - len(first)
    if not missing:
        return first
    again = recording.read(0, missing)
    return torch.cat([first, again.repeat(math.ceil(missing / len(again)))[:missing]])


def samples_sha256(samples: np.ndarray) -> str:
    """Hash of [samples] as 16-bit numbers, in which files hold them; floats have full scale 1."""
    if samples.dtype != np.int16:
        samples = np.clip(np.round(samples.astype(np.float64) * FULL_SCALE), -FULL_SCALE, FULL_SCALE - 1)
    return hashlib.sha256(samples.astype("<i2").tobytes()).hexdigest()


def wave_size(path: Path) -> int:
    """Samples in a 16-bit mono WAV file at 16 kHz. ValueError when it is anything else."""
    with _open(path) as file:
        return file.getnframes()


def read_wave(path: Path, start: int = 0, stop: int | None = None) -> np.ndarray:
    """The samples [start, stop) of such a file as int16, as many as there are. ValueError as ``wave_size``."""
    with _open(path) as file:
        end = min(file.getnframes(), file.getnframes() if stop is None else stop)
        file.setpos(start)
        return np.frombuffer(file.readframes(end - start), "<i2")


@contextmanager
def _open(path: Path) -> Iterator[wave.Wave_read]:
    try:
        with wave.open(str(path), "rb") as file:
            if (file.getnchannels(), file.getsampwidth(), file.getframerate()) != (1, 2, SAMPLE_RATE):
                raise wave.Error("it is not 16-bit mono at 16 kHz")
            yield file
    except (wave.Error, EOFError) as error:
        raise ValueError(
            f"{path}: no WAV file as noise manifests have ({error}); `omni-avsr noise` writes it"
        ) from error
