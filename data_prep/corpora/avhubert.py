"""Import mouth crops that AV-HuBERT's preparation wrote: its manifests become clips, no media file is opened.

Layout (github.com/facebookresearch/av_hubert, avhubert/preparation/lrs3_manifest.py and avhubert/hubert_dataset.py):
``train``, ``valid`` and ``test`` have a ``.tsv`` and a ``.wrd`` each. The first line of the .tsv is the folder that
relative paths count from, mostly /. The others are, separated by tabs: id, video (96x96, 25 fps), sound (16 kHz),
number of frames, number of samples. The .wrd holds their texts, a line each, in the same order.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from data_prep.corpora.label_lines import LabelLine, clips_of, each_clip_once, read_label_lines
from data_prep.corpora.source import SourceClip
from data_prep.corpora.splits import split_named
from data_prep.rejection import Reason
from omni_avsr.media import FRAME_RATE, SAMPLE_RATE
from omni_avsr.normalize import normalize_label

SPLITS = ("train", "valid", "test")
"""As AV-HuBERT names its files."""
MAX_UNEVENNESS = 0.2
"""Seconds by which sound and video of a clip may differ in length before it is told."""

Move = tuple[Path, Path]
"""The folder that the manifests know, and where it is now."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ManifestFiles:
    """The two files of a split."""

    split: str
    table: Path
    texts: Path


def read_avhubert(folder: Path, moved: Move | None = None) -> list[SourceClip]:
    """The clips of the manifests in ``folder``, such as AV-HuBERT's 433h_data; see ``read_manifests``."""
    files = [ManifestFiles(split_named(name), folder / f"{name}.tsv", folder / f"{name}.wrd") for name in SPLITS]
    return read_manifests(files, moved, talk_at=1)


def read_manifests(files: Sequence[ManifestFiles], moved: Move | None, talk_at: int) -> list[SourceClip]:
    """The clips of manifests in AV-HuBERT's format, sorted by id, which is ``split/id``; no media file is opened.

    Args:
        files: of splits that may be there; at least one must. A relative first line counts from the table's folder.
        moved: paths that begin with the first folder are looked for below the second.
        talk_at: where in an id such as ``trainval/talk/00001`` the talk is, counted from 0: one speaker's, in LRS3.

    A line that cannot be read, a missing file and a clip named twice come back as clips with a problem. A line without
    a path to the sound, or without both columns of the sound, is a clip without audio. Clips whose sound is shorter or
    longer than their video are kept, as AV-HuBERT keeps them, and counted in a warning.

    Raises:
        ValueError: none of the files is there, a split has only one of the two, or they are not equally long, so that
            no text is known to belong to its clip.
    """
    present = [pair for pair in files if pair.table.is_file() or pair.texts.is_file()]
    if not present:
        expected = ", ".join(f"{pair.table.name} with {pair.texts.name}" for pair in files)
        raise ValueError(f"{files[0].table.parent}: no manifests of AV-HuBERT; expected one or more of {expected}")
    for pair in present:
        for path in (pair.table, pair.texts):
            if not path.is_file():
                raise ValueError(
                    f"{path}: no such file, but {pair.table.name} and {pair.texts.name} belong together; "
                    "move the other away to import the other splits"
                )
    return each_clip_once(labelled for pair in present for labelled in _clips(pair, moved, talk_at))


def _clips(files: ManifestFiles, moved: Move | None, talk_at: int) -> Iterator[tuple[LabelLine, SourceClip]]:
    lines, texts = read_label_lines(files.table), read_label_lines(files.texts)
    if not lines or b"\t" in lines[0].content:
        raise ValueError(f"{files.table}:1: expected the root folder of the paths alone, / if they are absolute")
    root = files.table.parent / lines.pop(0).text().strip()
    if len(lines) != len(texts):
        raise ValueError(
            f"{files.table} names {len(lines)} clips, {files.texts} has {len(texts)} lines, so no text is known to "
            "belong to its clip; make both anew, or move them away to import the other splits"
        )
    num_uneven = 0
    for line, clip in clips_of(lines, files.split, _LineReader(root, files.split, texts, moved, talk_at).read):
        num_uneven += _is_uneven(clip)
        yield line, clip
    if num_uneven:
        logger.warning(
            "%s: sound and video differ by more than %g s in %d of %d clips; they are kept",
            files.table,
            MAX_UNEVENNESS,
            num_uneven,
            len(lines),
        )


@dataclass(frozen=True)
class _LineReader:
    """Makes clips from the lines of one table; ``texts`` are the lines of the other file."""

    root: Path
    split: str
    texts: Sequence[LabelLine]
    moved: Move | None
    talk_at: int

    def read(self, line: LabelLine) -> SourceClip:
        cells = line.text().split("\t")
        if len(cells) == 3:
            cells = [*cells[:2], "", cells[2], ""]
        if len(cells) != 5 or not cells[0]:
            raise line.bad_label(
                f"expected an id, video, sound, frames and samples between tabs, got {len(cells)} cells"
            )
        id, video, sound, frames, samples = cells
        clip = SourceClip(
            id=f"{self.split}/{id.strip('/')}",
            media=self._file(line, video),
            text=normalize_label(self.texts[line.number - 2].text()),
            split=self.split,
            speaker=self._speaker(id),
            audio=self._file(line, sound) if sound else None,
            needs_audio=bool(sound),
        )
        for file in (clip.media, clip.audio):
            if file is not None and not os.path.isfile(file):
                detail = f"{file} does not exist; if the files were moved, set `moved`"
                return replace(clip, problem=line.problem(Reason.MISSING_FILE, detail))
        num_frames = line.count(frames, "frames")
        seconds = line.count(samples, "samples") / SAMPLE_RATE if sound else num_frames / FRAME_RATE
        return replace(clip, cropped_frames=num_frames, seconds=seconds)

    def _file(self, line: LabelLine, cell: str) -> Path:
        path = Path(cell) if cell.startswith("/") else self.root / line.path_inside(cell)
        if self.moved is not None and path.is_relative_to(self.moved[0]):
            return self.moved[1] / path.relative_to(self.moved[0])
        return path

    def _speaker(self, id: str) -> str | None:
        parts = PurePosixPath(id.strip("/")).parts
        return parts[self.talk_at] if len(parts) == self.talk_at + 2 else None


def _is_uneven(clip: SourceClip) -> bool:
    if clip.cropped_frames is None or clip.seconds is None:
        return False
    return abs(clip.seconds - clip.cropped_frames / FRAME_RATE) > MAX_UNEVENNESS
