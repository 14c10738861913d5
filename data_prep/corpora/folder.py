"""Read a folder of media files with a table that tells what is said in them."""

from __future__ import annotations

from pathlib import Path

from data_prep.corpora.files import inside
from data_prep.corpora.source import SourceClip
from data_prep.corpora.splits import split_named, with_validation
from data_prep.corpora.tables import Row, read_table
from data_prep.rejection import ProblemError
from omni_avsr.normalize import normalize_label

TABLE_NAME = "transcripts.tsv"


def read_folder(folder: Path, table: str = TABLE_NAME, split: str = "test", silent: bool = False) -> list[SourceClip]:
    """The clips of a table with a header: columns file and text, optionally speaker and split; sorted by id.

    Args:
        folder: what the paths in the column file count from. Files may be of any format, with or without video.
        table: its name in ``folder``: comma-separated if it ends in .csv, else tab-separated. More columns may follow.
        split: of the clips for which the table names none.
        silent: the files are videos without sound.

    A table with train clips and no validation clips gives up a share of the former (``with_validation``). A line that
    cannot be read, or whose file would be outside ``folder``, is a clip with a problem and an id like
    ``transcripts.tsv:17``. ValueError if there is no such table, a column is missing, or there are no lines.
    """
    path = folder / table
    rows = read_table(path, ("file", "text"))
    if not rows:
        raise ValueError(f"{path}: no clips; expected a line for each below the header")
    clips = with_validation([_clip(folder, path, row, split, silent) for row in rows])
    return sorted(clips, key=lambda clip: clip.id)


def _clip(folder: Path, table: Path, row: Row, split: str, silent: bool) -> SourceClip:
    problem = row.problem
    if problem is None:
        try:
            file = inside(row.cells["file"], f"{table}:{row.number}")
            return SourceClip(
                id=file.with_suffix("").as_posix(),
                media=folder / file,
                text=normalize_label(row.cells["text"]),
                split=split_named(row.cells.get("split", "").strip() or split),
                speaker=row.cells.get("speaker", "").strip() or None,
                needs_audio=not silent,
                needs_video=silent,
            )
        except ProblemError as error:
            problem = error.problem
    return SourceClip(f"{table.name}:{row.number}", table, "", split, problem=problem)
