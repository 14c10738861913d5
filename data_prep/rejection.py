"""Why a clip is not in the manifest: reasons that can be counted, and the words for people beside them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path

from omni_avsr.files import write_atomically


class Reason(StrEnum):
    """The kinds of reasons; the quality page counts by them."""

    BAD_LABEL = "bad_label"
    """A line or a file of labels cannot be read, or names a file outside the corpus."""
    BAD_NAME = "bad_name"
    """The clip's id is no path inside the output folder, or cannot be written."""
    DUPLICATE = "duplicate"
    EMPTY_TRANSCRIPT = "empty_transcript"
    LONG_TRANSCRIPT = "long_transcript"
    LONG_WORD = "long_word"
    """A word that lasts longer than a piece may, so that its clip cannot be cut."""
    MISSING_FILE = "missing_file"
    CORRUPT = "corrupt"
    """The media file is empty, or cannot be opened or decoded."""
    CUT_OFF = "cut_off"
    """The media end before the file's header says, or before the last word."""
    UNEVEN = "uneven"
    """Sound and pictures are not equally long."""
    NO_VIDEO = "no_video"
    NO_AUDIO = "no_audio"
    NO_FACE = "no_face"
    FEW_FACES = "few_faces"
    TOO_LARGE = "too_large"
    TIMEOUT = "timeout"
    WORKER_DIED = "worker_died"
    FAILED = "failed"
    """Anything else that went wrong with this clip."""


PASSING = frozenset({Reason.TIMEOUT, Reason.WORKER_DIED, Reason.FAILED})
"""Reasons that may be gone in another run: it tries again."""


@dataclass(frozen=True)
class Problem:
    """What is wrong with a clip: ``detail`` is for people, and names the file, the line and what to do."""

    reason: Reason
    detail: str


class ProblemError(ValueError):
    """Raised where a clip turns out to be unusable."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.problem = Problem(reason, detail)

    def __reduce__(self) -> tuple[type[ProblemError], tuple[Reason, str]]:
        """Exceptions cross from worker processes by their constructor's arguments."""
        return ProblemError, (self.problem.reason, self.problem.detail)


@dataclass(frozen=True)
class Rejection:
    """A clip that could not be prepared; one line of rejected.jsonl."""

    id: str
    source: str
    reason: Reason
    detail: str


def write_rejections(path: Path, rejections: Iterable[Rejection]) -> None:
    """One JSON object a line, in ASCII, for a name that is no valid Unicode must not be lost either."""
    write_atomically(path, "".join(f"{json.dumps(asdict(rejection))}\n" for rejection in rejections))


def read_rejections(path: Path) -> list[Rejection]:
    """What ``write_rejections`` wrote. ValueError names the file and the line."""
    if not path.is_file():
        raise ValueError(f"{path}: no such file; run the preparation again")
    rejections = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            record = json.loads(line)
            rejections.append(Rejection(**{**record, "reason": Reason(record["reason"])}))
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"{path}:{number}: no rejection ({error})") from error
    return rejections
