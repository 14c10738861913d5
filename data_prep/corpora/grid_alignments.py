"""GRID's alignments: read, and found wherever the corpus's downloads and its users put them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from data_prep.corpora.files import read_label, stem_of
from data_prep.rejection import ProblemError, Reason
from omni_avsr.types import Word

SUFFIX = ".align"
_UNITS_PER_SECOND = 25_000
_SILENCE = frozenset({"sil", "sp"})


def read_align(path: Path) -> tuple[Word, ...]:
    """The words of an ``.align`` file with times in seconds, silences dropped.

    ProblemError (MISSING_FILE, BAD_LABEL) names the file and the line.
    """
    words = []
    for number, line in enumerate(read_label(path), start=1):
        cells = line.split()
        if not cells:
            continue
        if len(cells) != 3 or not _is_count(cells[0]) or not _is_count(cells[1]) or int(cells[1]) < int(cells[0]):
            raise ProblemError(
                Reason.BAD_LABEL, f"{path}:{number}: expected 'start end word' in 1/{_UNITS_PER_SECOND} s, got {line!r}"
            )
        if cells[2].lower() not in _SILENCE:
            words.append(Word(cells[2].lower(), int(cells[0]) / _UNITS_PER_SECOND, int(cells[1]) / _UNITS_PER_SECOND))
    return tuple(words)


def find_alignments(
    videos: Mapping[str, str], files: Iterable[str], speaker_of: Callable[[str], str]
) -> dict[str, str]:
    """The alignment of each video that has one, by relative paths.

    Args:
        videos: path to speaker.
        files: all paths below the corpus's folder.
        speaker_of: the speaker by a path.

    It is beside the video, or in a folder that is the speaker's: the one whose clips it names most of, if it bears
    their name or has at least half of them. Its name alone does not tell: in the alignments.zip of Zenodo record
    3625687 many folders hold another speaker's alignments (lhotse, pull request 1502). But a clip's name is its
    sentence, and two speakers have few sentences in common.
    """
    folders: dict[str, dict[str, str]] = {}
    for path in files:
        if path.endswith(SUFFIX):
            folders.setdefault(_folder(path), {})[stem_of(path)] = path
    names: dict[str, set[str]] = {}
    for video, speaker in videos.items():
        names.setdefault(speaker, set()).add(stem_of(video))
    shelves: dict[str, list[tuple[int, dict[str, str]]]] = {speaker: [] for speaker in names}
    for alignments in folders.values() if names else ():
        owner = speaker_of(next(iter(alignments.values())))
        count, _, speaker = max((len(alignments.keys() & names[who]), who == owner, who) for who in names)
        if speaker == owner or 2 * count >= len(names[speaker]):
            shelves[speaker].append((count, alignments))
    for shelf in shelves.values():
        shelf.sort(key=lambda pair: -pair[0])
    found = {}
    for video, speaker in videos.items():
        places = (folders.get(_folder(video), {}), *(alignments for _, alignments in shelves[speaker]))
        alignment = next((place[stem_of(video)] for place in places if stem_of(video) in place), None)
        if alignment is not None:
            found[video] = alignment
    return found


def _folder(path: str) -> str:
    return path.rpartition("/")[0]


def _is_count(cell: str) -> bool:
    return cell.isascii() and cell.isdigit() and len(cell) < 16
