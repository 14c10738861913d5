"""A source clip: what every corpus reader hands to the preparation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from data_prep.rejection import Problem
from omni_avsr.types import Word


@dataclass(frozen=True)
class SourceClip:
    """A recording, or a stretch of one, as a corpus ships it.

    id: unique in the corpus; may hold slashes, which become folders of the output.
    media: the file to decode.
    text: normalised (``normalize_label``). The preparation rejects empty and over-long ones.
    words: with times in seconds from the clip's start.
    audio: where the sound is, if not in ``media``.
    span: the stretch of ``media`` and ``audio`` that the clip is, in seconds [start, end); None is all of it.
    needs_audio, needs_video: without them the clip is rejected. A clip that has neither fails anyway.
    cropped_frames: ``media`` holds this many mouth crops at 25 fps already: it is taken as it is, nothing is decoded.
    seconds: the length as the labels tell it, for clips that are not decoded.
    quality: what the corpus tells of it, by name; goes to the manifest with what the preparation measures.
    problem: why the clip cannot be used although the corpus names it; the preparation lists it as rejected.
    """

    id: str
    media: Path
    text: str
    split: str
    speaker: str | None = None
    words: tuple[Word, ...] = ()
    audio: Path | None = None
    span: tuple[float, float] | None = None
    needs_audio: bool = True
    needs_video: bool = False
    cropped_frames: int | None = None
    seconds: float | None = None
    quality: Mapping[str, float] = field(default_factory=dict)
    problem: Problem | None = None
