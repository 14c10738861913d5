"""Read the GRID corpus (Cooke, Barker, Cunningham, Shao 2006): clips, sentences and word times."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from data_prep.sources import SourceClip, read_table
from omni_avsr.normalize import normalize_label
from omni_avsr.types import Word

_UNITS_PER_SECOND = 25_000
_SILENCE = frozenset({"sil", "sp"})
_SUFFIXES = frozenset({".mp4", ".mpg"})


def read_grid(folder: Path, split: str = "train") -> list[SourceClip]:
    """The clips of a GRID folder, sorted by id: ``<speaker>/<name>.mp4`` or ``.mpg``, each with its ``.align``.

    ``split.tsv`` (columns clip and split) chooses the clips and their splits; without it all clips are ``split``. A
    clip whose alignment is missing or broken comes back with a ``problem``. ValueError if there is nothing to read.
    """
    table = folder / "split.tsv"
    if table.is_file():
        splits = {}
        for number, row in read_table(table, ("clip", "split")):
            if row["clip"] in splits:
                raise ValueError(f"{table}:{number}: clip {row['clip']} is listed twice")
            splits[row["clip"]] = row["split"]
    else:
        splits = {
            path.relative_to(folder).as_posix(): split
            for path in sorted(folder.glob("*/*"))
            if path.suffix.lower() in _SUFFIXES
        }
    if not splits:
        raise ValueError(f"{folder}: no GRID clips; expected <speaker>/<clip>.mp4 or .mpg, or a split.tsv naming them")
    return [_source_clip(folder, PurePosixPath(clip), splits[clip]) for clip in sorted(splits)]


def read_align(path: Path) -> tuple[Word, ...]:
    """The words of an ``.align`` file with times in seconds, silences dropped. ValueError names file and line."""
    if not path.is_file():
        raise ValueError(f"{path}: no such alignment")
    words = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        cells = line.split()
        if len(cells) != 3 or not cells[0].isdigit() or not cells[1].isdigit() or int(cells[1]) < int(cells[0]):
            raise ValueError(f"{path}:{number}: expected 'start end word' in 1/{_UNITS_PER_SECOND} s, got {line!r}")
        if cells[2].lower() not in _SILENCE:
            words.append(Word(cells[2].lower(), int(cells[0]) / _UNITS_PER_SECOND, int(cells[1]) / _UNITS_PER_SECOND))
    if not words:
        raise ValueError(f"{path}: no words")
    return tuple(words)


def _source_clip(folder: Path, clip: PurePosixPath, split: str) -> SourceClip:
    words: tuple[Word, ...] = ()
    problem = None
    try:
        words = read_align(folder / clip.with_suffix(".align"))
    except ValueError as error:
        problem = str(error)
    return SourceClip(
        id=clip.with_suffix("").as_posix(),
        media=folder / clip,
        text=normalize_label(" ".join(word.text for word in words)),
        split=split,
        speaker=clip.parts[0] if len(clip.parts) > 1 else None,
        words=words,
        problem=problem,
    )
