"""Source clips: what a corpus reader hands to the preparation, and the reader of plain folders with a TSV."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from omni_avsr.normalize import normalize_label
from omni_avsr.types import Word


@dataclass(frozen=True)
class SourceClip:
    """A recording as a corpus ships it. ``id`` may hold slashes; they become folders of the output.

    problem: why the clip cannot be used although the corpus names it; the preparation lists it as failed.
    """

    id: str
    media: Path
    text: str
    split: str
    speaker: str | None = None
    words: tuple[Word, ...] = ()
    problem: str | None = None


def read_folder(folder: Path, table: str = "transcripts.tsv", split: str = "test") -> list[SourceClip]:
    """The clips named by a tab-separated table with a header: columns file and text, optionally speaker and split.

    Files may be of any format and with or without video. ``split`` is for tables without that column. Other columns
    are ignored. The text is lower-cased and its white space made single blanks. ValueError names file and line.
    """
    path = folder / table
    clips = []
    for number, row in read_table(path, ("file", "text")):
        if not row["file"] or not row["text"].strip():
            raise ValueError(f"{path}:{number}: file and text must not be empty")
        clips.append(
            SourceClip(
                id=PurePosixPath(row["file"]).with_suffix("").as_posix(),
                media=folder / row["file"],
                text=normalize_label(row["text"]),
                split=row.get("split") or split,
                speaker=row.get("speaker") or None,
            )
        )
    return clips


def read_table(path: Path, columns: tuple[str, ...]) -> list[tuple[int, dict[str, str]]]:
    """Line numbers and rows of a tab-separated file whose header has at least ``columns``. ValueError if not."""
    if not path.is_file():
        raise ValueError(f"{path}: no such table; expected tab-separated columns {', '.join(columns)}")
    with path.open(encoding="utf-8", newline="") as lines:
        reader = csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
        header = next(reader, [])
        missing = [column for column in columns if column not in header]
        if missing:
            raise ValueError(f"{path}:1: no column {', '.join(missing)}; the header is {header}")
        rows = []
        for cells in reader:
            if not cells:
                continue
            if len(cells) != len(header):
                raise ValueError(f"{path}:{reader.line_num}: {len(cells)} cells under {len(header)} columns")
            rows.append((reader.line_num, dict(zip(header, cells, strict=True))))
    return rows
