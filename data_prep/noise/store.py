"""Recordings as a noise manifest has them."""

from __future__ import annotations

from pathlib import Path

from omni_avsr.data.noise_manifest import NoiseClip, Split
from omni_avsr.data.noise_recording import read_wave, samples_sha256
from omni_avsr.features import SAMPLE_RATE

MANIFEST_NAME = "noise.jsonl"


def audio_path(output: Path, id: str) -> Path:
    """Where the recording lies: as WAV, so that mixing reads a few seconds of it without decoding the rest."""
    return output / "audio" / f"{id}.wav"


def stored_clip(output: Path, id: str, split: Split, kind: str, speakers: tuple[str, ...] = ()) -> NoiseClip:
    """The manifest's line of a recording that has been written. ValueError when its file is broken."""
    path = audio_path(output, id)
    samples = read_wave(path)
    return NoiseClip(id, path, len(samples) / SAMPLE_RATE, split, kind, samples_sha256(samples), speakers)
