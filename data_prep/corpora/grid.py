"""Read the GRID corpus (Cooke, Barker, Cunningham, Shao 2006): clips, sentences and word times."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

from data_prep.corpora.files import VIDEO_SUFFIXES, files_below, inside, stem_of, suffix_of
from data_prep.corpora.grid_alignments import find_alignments, read_align
from data_prep.corpora.source import SourceClip
from data_prep.corpora.splits import split_by_speaker, split_named, with_validation
from data_prep.corpora.tables import read_table
from data_prep.rejection import Problem, ProblemError, Reason
from omni_avsr.normalize import normalize_label
from omni_avsr.types import Word

TEST_SPEAKERS = frozenset({"s1", "s2", "s20", "s22"})
"""The unseen speakers that LipNet (Assael, Shillingford, Whiteson, de Freitas 2016) and its successors test on."""
VALIDATION_SPEAKERS = frozenset({"s3", "s4"})
TABLE_NAME = "split.tsv"
_SPEAKER = re.compile(r"s[0-9]{1,3}", re.IGNORECASE)


def read_grid(folder: Path, split: str | None = None) -> list[SourceClip]:
    """The clips of a GRID folder, sorted by id, which is ``<speaker>/<name of the file>``.

    Videos of any format are anywhere below ``folder``; the speaker is the deepest folder above that is named like
    ``s1``, else the topmost. Alignments (``.align``) are beside the videos or in a folder of the speaker
    (``find_alignments``). A clip without a readable alignment has a problem.

    A ``split.tsv`` (columns clip, the path of a video, and split) chooses the clips and their splits. Without it, all
    clips are ``split``, or if that is None, those of LipNet's unseen speakers are test, those of s3 and s4 validation,
    and the others train; where that leaves train or test empty, they are split one by one (``split_by_speaker``).

    ValueError if there are no clips, or the table's header cannot be read.
    """
    files = files_below(folder)
    table = folder / TABLE_NAME
    if table.is_file():
        videos, bad_lines = _listed(table)
    else:
        videos, bad_lines = [(path, split or "") for path in files if suffix_of(path) in VIDEO_SUFFIXES], []
    if not videos and not bad_lines:
        raise ValueError(f"{folder}: no GRID clips; expected <speaker>/<clip>.mpg or .mp4, or lines in a {TABLE_NAME}")
    speaker_of = partial(_speaker, folder.resolve().name)
    speakers = {path: speaker_of(path) for path, _ in videos}
    alignments = find_alignments(speakers, files, speaker_of)
    present = set(files)
    clips = [
        _clip(folder, path, its_split, speakers[path], alignments.get(path), path in present)
        for path, its_split in videos
    ]
    if table.is_file():
        clips = with_validation(clips)
    elif split is None:
        clips = split_by_speaker(clips, _split_of)
    return sorted(clips + bad_lines, key=lambda clip: clip.id)


def _listed(table: Path) -> tuple[list[tuple[str, str]], list[SourceClip]]:
    """Path and split by line, and a clip with a problem for each line that cannot be read."""
    videos, bad_lines = [], []
    for row in read_table(table, ("clip", "split")):
        problem = row.problem
        if problem is None:
            try:
                video = inside(row.cells["clip"], f"{table}:{row.number}").as_posix()
                split = split_named(row.cells["split"])
                if not split:
                    raise ProblemError(Reason.BAD_LABEL, f"{table}:{row.number}: no split for {video}")
                videos.append((video, split))
                continue
            except ProblemError as error:
                problem = error.problem
        bad_lines.append(SourceClip(f"{table.name}:{row.number}", table, "", "train", problem=problem))
    return videos, bad_lines


def _clip(folder: Path, video: str, split: str, speaker: str, alignment: str | None, is_there: bool) -> SourceClip:
    words: tuple[Word, ...] = ()
    problem = None
    if not is_there:
        problem = Problem(Reason.MISSING_FILE, f"{folder / video}: no such file")
    elif alignment is None:
        expected = f"{stem_of(video)}.align beside it, or in a folder that has the alignments of its speaker"
        problem = Problem(Reason.MISSING_FILE, f"{folder / video}: no alignment; expected {expected}")
    else:
        try:
            words = read_align(folder / alignment)
        except ProblemError as error:
            problem = error.problem
    return SourceClip(
        id=f"{speaker}/{stem_of(video)}" if speaker else stem_of(video),
        media=folder / video,
        text=normalize_label(" ".join(word.text for word in words)),
        split=split,
        speaker=speaker or None,
        words=words,
        needs_video=True,
        problem=problem,
    )


def _speaker(source: str, path: str) -> str:
    """The speaker by the corpus's name and the path of a video or an alignment in it, empty if no folder tells."""
    folders = path.split("/")[:-1]
    named = [name for name in (source, *folders) if _SPEAKER.fullmatch(name)]
    return (named or folders[:1] or [""])[-1]


def _split_of(speaker: str) -> str:
    if speaker.lower() in TEST_SPEAKERS:
        return "test"
    return "validation" if speaker.lower() in VALIDATION_SPEAKERS else "train"
