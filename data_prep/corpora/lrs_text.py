"""Read the text files of LRS2 and LRS3: what is said, and when each word is.

``Text:  ...``, ``Conf:  n`` and sometimes ``Ref:  ...``, then tables with a header each, none of which must be there:
``FRAME X Y W H`` (where the face was in the original video) and ``WORD START END ASDSCORE`` (times in seconds).
Afouras, Chung, Zisserman, LRS3-TED (2018); Chung, Senior, Vinyals, Zisserman, Lip Reading Sentences in the Wild (2017).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from itertools import takewhile
from pathlib import Path

from data_prep.corpora.files import read_label
from data_prep.rejection import ProblemError, Reason
from omni_avsr.normalize import normalize_label
from omni_avsr.types import Word

_WORD_TABLE = ["WORD", "START", "END"]
_FRAME_TABLE = ["FRAME", "X", "Y"]


@dataclass(frozen=True)
class LrsText:
    """text: normalised. conf: the corpus's grade of the transcript, if it tells one. words: normalised too.

    A word that normalises to several (``TWENTY-ONE``) is several words, which share its time by their letters; one that
    normalises to nothing (``{LAUGH}``) is none.
    """

    text: str
    conf: int | None
    words: tuple[Word, ...]


def read_lrs_text(path: Path) -> LrsText:
    """The text file of a clip. ProblemError (MISSING_FILE, BAD_LABEL) names the file and the line."""
    lines = read_label(path)
    head = takewhile(lambda line: line.split()[:3] not in (_WORD_TABLE, _FRAME_TABLE), lines)
    fields = [line.partition(":") for line in head]
    texts = [value for name, colon, value in fields if colon and name.strip() == "Text"]
    if len(texts) != 1:
        raise ProblemError(Reason.BAD_LABEL, f"{path}: expected one line 'Text:  ...', got {len(texts)}")
    confs = [value.strip() for name, _, value in fields if name.strip() == "Conf"]
    conf = int(confs[0]) if confs and confs[0].isascii() and confs[0].isdigit() else None
    return LrsText(normalize_label(texts[0]), conf, tuple(_words(path, lines)))


def _words(path: Path, lines: list[str]) -> list[Word]:
    header = next(
        (n for n, line in enumerate(lines) if line.startswith("WORD") and line.split()[:3] == _WORD_TABLE), None
    )
    if header is None:
        return []
    words: list[Word] = []
    rows = takewhile(lambda numbered: numbered[1].strip(), enumerate(lines[header + 1 :], start=header + 2))
    for number, line in rows:
        cells = line.split()
        start, end = _seconds(cells[1:2]), _seconds(cells[2:3])
        if start is None or end is None or end < start:
            raise ProblemError(
                Reason.BAD_LABEL, f"{path}:{number}: expected 'WORD START END ASDSCORE' in seconds, got {line!r}"
            )
        words += _timed(cells[0], start, end)
    return words


def _seconds(cells: list[str]) -> float | None:
    try:
        (seconds,) = map(float, cells)
    except ValueError:
        return None
    return seconds if math.isfinite(seconds) and seconds >= 0 else None


def _timed(word: str, start: float, end: float) -> list[Word]:
    parts = _normalized(word)
    share = (end - start) / max(1, sum(map(len, parts)))
    words = []
    for number, part in enumerate(parts, start=1):
        stop = end if number == len(parts) else start + share * len(part)
        words.append(Word(part, start, stop))
        start = stop
    return words


@lru_cache(maxsize=2**17)
def _normalized(word: str) -> tuple[str, ...]:
    return tuple(normalize_label(word).split())
