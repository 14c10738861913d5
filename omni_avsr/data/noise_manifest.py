"""Manifests of noise: JSON Lines on disk, ``NoiseClip`` in memory. One line describes one recording."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import Field
from pydantic.dataclasses import dataclass

from omni_avsr.config import STRICT, from_mapping
from omni_avsr.files import write_atomically

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)
Name = Annotated[str, Field(min_length=1)]


@dataclass(frozen=True, config=STRICT)
class NoiseClip:
    """One recording of noise.

    audio: 16-bit mono WAV at 16 kHz, from which any piece is read without the rest.
    kind: what is heard, in a word.
    sha256: of its samples (``samples_sha256``): the same sound is known again under any name.
    speakers: who is heard, where that is known, as in babble.
    """

    id: Name
    audio: Path
    seconds: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    split: Split
    kind: Name
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    speakers: tuple[Name, ...] = ()


def read_noise_manifest(path: str | os.PathLike[str]) -> list[NoiseClip]:
    """The recordings of a manifest, in its order; their paths are the manifest's folder joined with the written ones.

    ValueError names the manifest, the line and what is wrong with it: a key, a value, a missing file, or a recording
    (by id or by sound) or a speaker that stands in two splits.
    """
    manifest = Path(path)
    if not manifest.is_file():
        raise ValueError(f"{manifest}: no such noise manifest; `omni-avsr noise` writes one")
    clips: list[NoiseClip] = []
    owners: dict[str, tuple[int, Split]] = {}
    for number, line in enumerate(manifest.read_text(encoding="utf-8").split("\n"), start=1):
        if not line.strip():
            continue
        try:
            clip = _clip_from_json(json.loads(line), manifest.parent)
            _check_owners(clip, number, owners)
        except json.JSONDecodeError as error:
            raise ValueError(f"{manifest}:{number}: not JSON ({error}); each line must be one JSON object") from error
        except ValueError as error:
            raise ValueError(f"{manifest}:{number}: {error}") from error
        clips.append(clip)
    return clips


def write_noise_manifest(path: str | os.PathLike[str], clips: Iterable[NoiseClip]) -> None:
    """Write recordings in the given order, one line each; equal ones give equal bytes; the file appears at once."""
    folder = Path(path).parent
    lines = [json.dumps(_clip_to_json(clip, folder), ensure_ascii=False) for clip in clips]
    write_atomically(path, "".join(f"{line}\n" for line in lines))


def _clip_from_json(record: Any, folder: Path) -> NoiseClip:
    if not isinstance(record, dict):
        raise ValueError(f"expected a JSON object, got {type(record).__name__}")
    clip = from_mapping(NoiseClip, record, "noise")
    clip = replace(clip, audio=folder / clip.audio)
    if not clip.audio.is_file():
        raise ValueError(f"{clip.audio} does not exist; run `omni-avsr noise` again")
    return clip


def _clip_to_json(clip: NoiseClip, folder: Path) -> dict[str, Any]:
    return {
        "id": clip.id,
        "audio": Path(os.path.relpath(clip.audio, folder)).as_posix(),
        "seconds": clip.seconds,
        "split": clip.split,
        "kind": clip.kind,
        "sha256": clip.sha256,
        **({"speakers": list(clip.speakers)} if clip.speakers else {}),
    }


def _check_owners(clip: NoiseClip, number: int, owners: dict[str, tuple[int, Split]]) -> None:
    """Raise ValueError when an earlier line has the recording, or its split may not have a speaker; note the line."""
    recording = {f"id {clip.id!r}", f"the sound of {clip.audio.name} ({clip.sha256[:12]})"}
    for name in sorted(recording | {f"speaker {speaker!r}" for speaker in clip.speakers}):
        line, split = owners.setdefault(name, (number, clip.split))
        if split != clip.split:
            raise ValueError(f"{name} is in split {split!r} on line {line}; splits must not share noise")
        if line != number and name in recording:
            raise ValueError(f"{name} is already on line {line}; recordings must be different")
