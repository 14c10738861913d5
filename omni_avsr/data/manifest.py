"""Manifests: JSON Lines on disk, ``Clip`` in memory. One line describes one clip; paths are relative to the file.

A path may lead into a tar archive (``archive``).
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from omni_avsr import archive
from omni_avsr.files import write_atomically
from omni_avsr.types import Clip, Word

_REQUIRED = ("id", "seconds", "text", "split")
_OPTIONAL = ("audio", "video", "frames", "speaker", "words", "quality")


def read_manifest(path: str | os.PathLike[str], check_files: bool = False) -> list[Clip]:
    """The clips of a manifest, in its order; their paths are the manifest's folder joined with the written ones.

    Keys of a line: id, seconds, text, split; audio and/or video; optionally frames (with video), speaker, words
    ([[start, end, text], ...] in seconds) and quality ({name: number}). check_files: the media files must exist.
    ValueError names the manifest, the line and what is wrong with it.
    """
    manifest = Path(path)
    if not manifest.is_file():
        raise ValueError(f"{manifest}: no such manifest; `omni-avsr prepare` writes one")
    clips: list[Clip] = []
    line_of: dict[str, int] = {}
    for number, line in enumerate(manifest.read_text(encoding="utf-8").split("\n"), start=1):
        if not line.strip():
            continue
        try:
            clip = clip_from_json(json.loads(line), manifest.parent)
            if clip.id in line_of:
                raise ValueError(f"id {clip.id!r} is already on line {line_of[clip.id]}; ids must be unique")
            if check_files:
                _check_files(clip)
        except json.JSONDecodeError as error:
            raise ValueError(f"{manifest}:{number}: not JSON ({error}); each line must be one JSON object") from error
        except ValueError as error:
            raise ValueError(f"{manifest}:{number}: {error}") from error
        line_of[clip.id] = number
        clips.append(clip)
    return clips


def write_manifest(path: str | os.PathLike[str], clips: Iterable[Clip]) -> None:
    """Write clips in the given order, one line each; equal clips give equal bytes; the file appears at once."""
    folder = Path(path).parent
    lines = [json.dumps(clip_to_json(clip, folder), ensure_ascii=False) for clip in clips]
    write_atomically(path, "".join(f"{line}\n" for line in lines))


def clip_from_json(record: Any, folder: Path) -> Clip:
    """One parsed manifest line as a Clip; ``folder`` is what its paths are relative to. ValueError on a bad field."""
    if not isinstance(record, dict):
        raise ValueError(f"expected a JSON object, got {type(record).__name__}")
    missing = [key for key in _REQUIRED if key not in record]
    if missing:
        raise ValueError(f"missing field {', '.join(missing)}; required are {', '.join(_REQUIRED)}")
    unknown = sorted(set(record) - {*_REQUIRED, *_OPTIONAL})
    if unknown:
        raise ValueError(f"unknown field {', '.join(unknown)}; known are {', '.join(_REQUIRED + _OPTIONAL)}")
    for key in ("id", "text", "split", "audio", "video", "speaker"):
        if key in record and not (isinstance(record[key], str) and (record[key] or key == "text")):
            raise ValueError(f"field {key} must be a non-empty string, got {record[key]!r}")
    if "audio" not in record and "video" not in record:
        raise ValueError("a clip needs audio, video or both")
    frames = record.get("frames", 0)
    if not isinstance(frames, int) or isinstance(frames, bool) or frames < 0 or (frames > 0) != ("video" in record):
        raise ValueError(f"frames must be a positive whole number with video and absent without, got {frames!r}")
    return Clip(
        id=record["id"],
        text=record["text"],
        split=record["split"],
        seconds=_number(record["seconds"], "seconds", positive=True),
        audio=folder / record["audio"] if "audio" in record else None,
        video=folder / record["video"] if "video" in record else None,
        num_frames=frames,
        speaker=record.get("speaker"),
        words=_words(record.get("words", [])),
        quality=_quality(record.get("quality", {})),
    )


def clip_to_json(clip: Clip, folder: Path) -> dict[str, Any]:
    """The manifest line of a Clip, keys in a fixed order, absent parts left out, paths relative to ``folder``."""
    record: dict[str, Any] = {"id": clip.id}
    for key, file in (("audio", clip.audio), ("video", clip.video)):
        if file is not None:
            record[key] = Path(os.path.relpath(file, folder)).as_posix()
    if clip.num_frames:
        record["frames"] = clip.num_frames
    record |= {"seconds": clip.seconds, "text": clip.text, "split": clip.split}
    if clip.speaker is not None:
        record["speaker"] = clip.speaker
    if clip.words:
        record["words"] = [[word.start, word.end, word.text] for word in clip.words]
    if clip.quality:
        record["quality"] = {name: clip.quality[name] for name in sorted(clip.quality)}
    return record


def _check_files(clip: Clip) -> None:
    for file in (clip.audio, clip.video):
        if file is not None and not archive.is_file(file):
            raise ValueError(f"clip {clip.id!r}: {file} does not exist; run `omni-avsr prepare` again")


def _number(value: Any, name: str, positive: bool = False) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{name} must be a number, got {value!r}")
    if positive and value <= 0:
        raise ValueError(f"{name} must be positive, got {value!r}")
    return float(value)


def _words(value: Any) -> tuple[Word, ...]:
    if not isinstance(value, list) or not all(
        isinstance(word, list) and len(word) == 3 and isinstance(word[2], str) for word in value
    ):
        raise ValueError("words must be a list of [start, end, text]")
    return tuple(
        Word(text, _number(start, "start of a word"), _number(end, "end of a word")) for start, end, text in value
    )


def _quality(value: Any) -> dict[str, float]:
    if not isinstance(value, dict):
        raise ValueError(f"quality must be an object of numbers, got {value!r}")
    return {name: _number(number, f"quality {name}") for name, number in value.items()}
