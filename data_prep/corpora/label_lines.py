"""Label files without a header, as trees of mouth crops bring them: lines with their places, and each clip once."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from data_prep.corpora.files import inside
from data_prep.corpora.source import SourceClip
from data_prep.rejection import Problem, ProblemError, Reason

# Longer counts would be no lengths of clips, and may be too large for a float.
_COUNT = re.compile(r"[0-9]{1,9}")
_MOST_APART_FIRST = ("test", "validation", "train")


@dataclass(frozen=True)
class LabelLine:
    """One line of ``path``, not yet decoded; ``number`` counts from 1. Its methods raise a ProblemError (BAD_LABEL)."""

    path: Path
    number: int
    content: bytes

    @property
    def place(self) -> str:
        """``train.tsv:17``: the id of a clip whose line cannot be read."""
        return f"{self.path.name}:{self.number}"

    def problem(self, reason: Reason, detail: str) -> Problem:
        return Problem(reason, f"{self.path}:{self.number}: {detail}")

    def text(self) -> str:
        try:
            return self.content.decode()
        except UnicodeDecodeError as error:
            raise self.bad_label(f"not UTF-8 ({error})") from error

    def count(self, cell: str, what: str) -> int:
        """The whole number in a cell, at least 1."""
        digits = cell.strip()
        if not _COUNT.fullmatch(digits) or int(digits) == 0:
            raise self.bad_label(f"expected a number of {what}, at least 1, got {cell!r}")
        return int(digits)

    def path_inside(self, cell: str) -> PurePosixPath:
        """The relative path in a cell, which may not leave the corpus's folder."""
        return inside(cell, f"{self.path}:{self.number}")

    def bad_label(self, detail: str) -> ProblemError:
        problem = self.problem(Reason.BAD_LABEL, detail)
        return ProblemError(problem.reason, problem.detail)


def read_label_lines(path: Path) -> list[LabelLine]:
    """All lines of a label file, empty ones too. ValueError if there is no such file."""
    if not path.is_file():
        raise ValueError(f"{path}: no such label file")
    lines = path.read_bytes().removeprefix(b"\xef\xbb\xbf").splitlines()
    return [LabelLine(path, number, content) for number, content in enumerate(lines, start=1)]


def clips_of(
    lines: Iterable[LabelLine], split: str, read: Callable[[LabelLine], SourceClip]
) -> Iterator[tuple[LabelLine, SourceClip]]:
    """The clip of each line; where ``read`` raises a ProblemError, a clip with that problem and the place as its id."""
    for line in lines:
        try:
            yield line, read(line)
        except ProblemError as error:
            yield line, SourceClip(line.place, line.path, "", split, problem=error.problem)


def each_clip_once(labelled: Iterable[tuple[LabelLine, SourceClip]]) -> list[SourceClip]:
    """The clips sorted by id. A line whose id or video another line has becomes a clip with a problem (DUPLICATE).

    A clip of several splits stays in test rather than validation, and in either rather than training.
    """
    line_of: dict[str | Path, LabelLine] = {}
    clips = []
    for line, clip in sorted(labelled, key=lambda pair: _MOST_APART_FIRST.index(pair[1].split)):
        keys = (clip.id,) if clip.id == line.place else (clip.id, clip.media)
        earlier = next((line_of[key] for key in keys if key in line_of), None)
        if earlier is not None:
            detail = f"{clip.id} ({clip.media}) is already named by {earlier.path}:{earlier.number}"
            clip = replace(clip, id=line.place, problem=line.problem(Reason.DUPLICATE, detail))
        else:
            line_of |= dict.fromkeys(keys, line)
        clips.append(clip)
    return sorted(clips, key=lambda clip: clip.id)
