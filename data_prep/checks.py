"""What can be told of a corpus's clips before a file is opened: which of them cannot be prepared, and why."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath

from data_prep.corpora.source import SourceClip
from data_prep.rejection import Problem, Reason

_MAX_NAME_BYTES = 200
"""File systems end names at 255 bytes, and names of unfinished files are longer than those of finished ones."""


def find_problems(clips: Sequence[SourceClip], max_characters: int) -> list[Problem | None]:
    """For each clip what is wrong with it, or None. Of several clips with one id the first is taken."""
    taken: dict[str, SourceClip] = {}
    problems = []
    for clip in clips:
        problem = clip.problem or _problem(clip, max_characters)
        if problem is None and clip.id in taken:
            detail = f"{clip.media} and {taken[clip.id].media} would both become clip {clip.id!r}"
            problem = Problem(Reason.DUPLICATE, detail)
        if problem is None:
            taken[clip.id] = clip
        problems.append(problem)
    return problems


def _problem(clip: SourceClip, max_characters: int) -> Problem | None:
    if flaw := _name_flaw(clip.id):
        return Problem(Reason.BAD_NAME, f"{str(clip.media)!r}: the id {clip.id!r} {flaw}")
    if not clip.text:
        return Problem(Reason.EMPTY_TRANSCRIPT, f"{clip.media}: nothing is said in it, or nothing was written down")
    if len(clip.text) > max_characters:
        detail = f"{clip.media}: a transcript of {len(clip.text)} characters, at most {max_characters} (max_characters)"
        return Problem(Reason.LONG_TRANSCRIPT, detail)
    return None


def _name_flaw(id: str) -> str | None:
    """What keeps an id from being the path of a file inside a folder."""
    path = PurePosixPath(id)
    if not id or path.is_absolute() or ".." in path.parts or path.as_posix() != id:
        return "is no path inside the output folder"
    if not id.isprintable():
        return "holds characters that cannot be written"
    if max(len(part.encode()) for part in path.parts) > _MAX_NAME_BYTES:
        return f"has a part of more than {_MAX_NAME_BYTES} bytes"
    if any(part.startswith(".") for part in path.parts):
        return "has a part that starts with a dot, which hides files"
    return None
