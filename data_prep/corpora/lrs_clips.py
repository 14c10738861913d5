"""The clips of one part of LRS2 or LRS3: files ``<folder>/<clip>.mp4`` and ``.txt``, whole or cut into pieces."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from data_prep.corpora.files import files_below
from data_prep.corpora.lrs_text import read_lrs_text
from data_prep.corpora.source import SourceClip
from data_prep.corpora.spans import Piece, cut_between_words
from data_prep.rejection import Problem, ProblemError, Reason
from omni_avsr.types import Word

_SUFFIXES = (".mp4", ".txt")


@dataclass(frozen=True)
class LrsPart:
    """A part of a corpus, such as ``pretrain``; ``files``: which suffixes there are of each ``<folder>/<clip>``."""

    root: Path
    name: str
    files: dict[str, set[str]]

    @staticmethod
    def find(root: Path, name: str) -> LrsPart:
        """What is in ``root``/``name``: nothing if there is no such folder."""
        files: dict[str, set[str]] = {}
        for path in files_below(root / name) if (root / name).is_dir() else ():
            if path.endswith(_SUFFIXES) and path.count("/") == 1:
                files.setdefault(path[:-4], set()).add(path[-4:])
        return LrsPart(root, name, files)

    @property
    def folders(self) -> set[str]:
        return set(map(folder_of, self.files))

    def clip(self, name: str, split: str, speaker: str | None = None) -> SourceClip:
        """The whole clip: its text, and its words' times where the words are those of the text."""
        (clip,) = self.pieces(name, split, speaker, max_seconds=None)
        return clip

    def pieces(self, name: str, split: str, speaker: str | None, max_seconds: float | None) -> list[SourceClip]:
        """A clip's pieces by the times of its words (``cut_between_words``), numbered from ``<id>/000`` on.

        A clip that is short enough, or has no word times, stays whole; the former goes as far as ``max_seconds``. A
        piece has the text of its words. One that is too long for its only word has a problem (LONG_WORD), and so has a
        clip without a readable label.
        """
        id = f"{self.name}/{name}"
        whole = SourceClip(id, self.root / f"{id}.mp4", "", split, speaker, needs_video=True)
        for suffix in _SUFFIXES:
            if suffix not in self.files.get(name, ()):
                return [replace(whole, problem=Problem(Reason.MISSING_FILE, f"{self.root / id}{suffix}: no such file"))]
        try:
            label = read_lrs_text(self.root / f"{id}.txt")
        except ProblemError as error:
            return [replace(whole, problem=error.problem)]
        if label.conf is not None:
            whole = replace(whole, quality={"conf": label.conf})
        pieces = [] if max_seconds is None else cut_between_words(label.words, max_seconds)
        if max_seconds is None or not pieces or (len(pieces) == 1 and pieces[0].end <= max_seconds):
            # How long the file is is not known here; a piece ends at its limit in any case.
            span = (0.0, max_seconds) if pieces and max_seconds is not None else None
            words = label.words if _text(label.words) == label.text else ()
            return [replace(whole, text=label.text, words=words, span=span)]
        return [_piece(whole, number, piece, max_seconds) for number, piece in enumerate(pieces)]


def folder_of(name: str) -> str:
    """The folder in ``<folder>/<clip>``: the talk in LRS3, the broadcast in LRS2."""
    return name.partition("/")[0]


def _piece(whole: SourceClip, number: int, piece: Piece, max_seconds: float) -> SourceClip:
    text = _text(piece.words)
    problem = None
    if not piece.fits:
        label = whole.media.with_suffix(".txt")
        detail = f"{label}: {text!r} lasts {piece.seconds:.1f} s, a piece at most {max_seconds:g} s"
        problem = Problem(Reason.LONG_WORD, detail)
    return replace(
        whole,
        id=f"{whole.id}/{number:03d}",
        text=text,
        words=piece.words,
        span=(piece.start, piece.end),
        problem=problem,
    )


def _text(words: Sequence[Word]) -> str:
    return " ".join(word.text for word in words)
