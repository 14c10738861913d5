"""Which recordings a noise setting names, and that none of those to train with is held out for tests."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

import torch

from omni_avsr.data.noise_manifest import Split, read_noise_manifest
from omni_avsr.data.noise_recording import MemoryRecording, Recording, WaveRecording
from omni_avsr.media import read_audio


def open_noise(path: Path, splits: Sequence[Split]) -> tuple[Recording, ...]:
    """The recordings of these splits of a noise manifest (.jsonl); any other file is one recording of any split.

    Raises:
        ValueError: a file is missing or wrong, or the manifest has no recording of these splits.
    """
    if path.suffix != ".jsonl":
        return (MemoryRecording(torch.from_numpy(read_audio(path)), str(path)),)
    clips = read_noise_manifest(path)
    chosen = tuple(WaveRecording(clip) for clip in clips if clip.split in splits)
    if not chosen:
        counts = Counter(clip.split for clip in clips)
        raise ValueError(
            f"{path}: no noise of split {' or '.join(splits)}; "
            f"it has {', '.join(f'{count} of {split}' for split, count in counts.items()) or 'none at all'}"
        )
    return chosen


def check_noise_apart(train: Iterable[Recording], held_out: Iterable[Recording]) -> None:
    """Raise ValueError when noise to train with is held out for tests: by its id, by its sound or by a speaker."""
    owners = {mark: recording.id for recording in held_out for mark in _marks(recording)}
    for recording in train:
        for mark in _marks(recording):
            if mark in owners:
                raise ValueError(
                    f"this would train on test noise: {recording.id} (data.noise) and {owners[mark]} (data.test_noise) "
                    f"have {mark} in common; give one of the two other noise"
                )


def noise_marks(recordings: Iterable[Recording]) -> list[str]:
    """By what a checkpoint knows again the noise that it was trained in: its sounds and speakers."""
    return sorted({mark for recording in recordings for mark in _marks(recording)[1:]})


def check_unheard(held_out: Iterable[Recording], trained_in: Collection[str]) -> None:
    """Raise ValueError when noise to test in is known to a model, by the ``noise_marks`` of what it was trained in."""
    for recording in held_out:
        for mark in _marks(recording)[1:]:
            if mark in trained_in:
                raise ValueError(
                    f"this checkpoint was trained in the noise {recording.id} (data.test_noise), by {mark}; "
                    "test it in other noise"
                )


def _marks(recording: Recording) -> list[str]:
    """Its id first."""
    speakers = [f"the speaker {speaker!r}" for speaker in recording.speakers]
    return [f"the id {recording.id!r}", f"the sound {recording.sha256[:12]}", *speakers]
