"""Import a tree of mouth crops that auto_avsr's preparation wrote: its label files become clips, no file is opened.

Layout (github.com/mpc001/auto_avsr, preparation/ and INSTRUCTION.md), D being a data set such as lrs3, N seconds::

    labels/D_train_transcript_lengths_segNs.csv   lines: D,D_video_segNs/NAME.mp4,frames,token ids
    D/D_video_segNs/NAME.mp4                      mouth crops, 96x96, 25 fps
    D/D_video_segNs/NAME.wav                      their sound, 16 kHz (with --combine-av it is inside the .mp4)
    D/D_text_segNs/NAME.txt                       their text

For LRS3 the tool writes no labels for validation and validates on the test labels: keep some of train apart instead.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Literal

from data_prep.corpora.files import read_label
from data_prep.corpora.label_lines import LabelLine, clips_of, each_clip_once, read_label_lines
from data_prep.corpora.source import SourceClip
from data_prep.corpora.splits import split_named
from data_prep.rejection import Reason
from omni_avsr.media import FRAME_RATE
from omni_avsr.normalize import normalize_label

Sound = Literal["wav", "mp4", "none"]
"""Where the sound is: in a file beside the video, in the video's own file, or nowhere."""

_SPLIT_IN_NAME = re.compile(r"(?<![a-z])(?:train|val|valid|validation|test)(?![a-z])")
_PART = re.compile(r"(\.[0-9]+\.[0-9]+)?\.csv$")
_TOKEN_IDS = re.compile(rb"[0-9\s]+")
_VIDEO_TREE = re.compile(r"_video_(?=seg[0-9]+s/)")
_WORD_START = "\u2581"
_UNKNOWN = "<unk>"

logger = logging.getLogger(__name__)


def read_auto_avsr(
    root: Path,
    files: Mapping[str, Sequence[str]] | None = None,
    units: Path | None = None,
    sound: Sound = "wav",
) -> list[SourceClip]:
    """The clips of auto_avsr's label files, sorted by id; no media file is opened.

    Args:
        root: auto_avsr's root folder, which holds labels/.
        files: per split (train, validation, test) the label files to read, as named in labels/; by default all whose
            name tells the split. One file must not serve two splits.
        units: auto_avsr's unigram5000_units.txt, to turn token ids into text; by default the text is read from the
            .txt tree beside the video tree. Labels that hold text already need neither.
        sound: where the sound is. With "mp4" (a tree made with --combine-av) a .wav that is there is still preferred.

    A line that cannot be read, a missing file and a clip named twice come back as clips with a problem.

    Raises:
        ValueError: there are no label files, the choice among them is not clear, or the units cannot be read.
    """
    labels = root / "labels"
    chosen = {split: [labels / name for name in names] for split, names in (files or {}).items()}
    if not any(chosen.values()):
        chosen = _find_label_files(labels)
    names = [path.name for paths in chosen.values() for path in paths]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"{labels / twice[0]}: chosen twice; a split must be apart from the others")
    pieces = None if units is None else read_units(units)
    return each_clip_once(
        pair for split, paths in chosen.items() for path in paths for pair in _clips(root, path, split, pieces, sound)
    )


def read_units(path: Path) -> dict[str, str]:
    """The pieces of a units file by their ids, as written: lines ``piece id``. ValueError names file and line."""
    pieces: dict[str, str] = {}
    for line in read_label_lines(path):
        cells = line.text().split()
        if len(cells) != 2 or not cells[1].isdecimal() or cells[1] in pieces:
            raise line.bad_label(f"expected 'piece id' with an id of its own, got {line.text()!r}")
        pieces[cells[1]] = cells[0]
    return pieces


def _find_label_files(labels: Path) -> dict[str, list[Path]]:
    """The label files by split. The parts of a file before auto_avsr's merge.py (NAME.8.0.csv, ...) belong together."""
    found: dict[str, list[Path]] = {}
    whole_of: dict[tuple[str, str], str] = {}
    for path in sorted(labels.glob("*.csv")):
        matches = list(_SPLIT_IN_NAME.finditer(path.name.lower()))
        splits = {split_named(match[0]) for match in matches}
        if len(splits) != 1:
            logger.warning("%s: left out, for its name tells no split; choose the label files to have it read", path)
            continue
        (split,) = splits
        whole = _PART.sub("", path.name)
        earlier = whole_of.setdefault((path.name[: matches[0].start()], split), whole)
        if earlier != whole:
            raise ValueError(f"{labels}: {earlier} and {whole} are both for {split}; choose the label files to read")
        found.setdefault(split, []).append(path)
    if not found:
        raise ValueError(
            f"{labels}: no labels of auto_avsr; expected .csv files whose names tell train, val or test, such as "
            "lrs3_train_transcript_lengths_seg16s.csv, in the folder labels of its root folder"
        )
    return found


def _clips(
    root: Path, path: Path, split: str, pieces: Mapping[str, str] | None, sound: Sound
) -> Iterator[tuple[LabelLine, SourceClip]]:
    lines = [line for line in read_label_lines(path) if line.content.strip()]
    reader = _LineReader(root, split, _hold_token_ids(lines), pieces, sound)
    return clips_of(lines, split, reader.read)


def _hold_token_ids(lines: Sequence[LabelLine]) -> bool:
    """Whether most labels are numbers. A single one would not tell: it may be broken, or a text such as "1984"."""
    labels = [cells[3] for line in lines if len(cells := line.content.split(b",", 3)) == 4 and cells[3].strip()]
    return 2 * sum(_TOKEN_IDS.fullmatch(label) is not None for label in labels) > len(labels)


@dataclass(frozen=True)
class _LineReader:
    """Makes clips from the lines of one label file."""

    root: Path
    split: str
    token_ids: bool
    pieces: Mapping[str, str] | None
    sound: Sound

    def read(self, line: LabelLine) -> SourceClip:
        cells = [cell.strip() for cell in line.text().split(",", 3)]
        if len(cells) != 4:
            raise line.bad_label(f"expected 'dataset,path,frames,label', got {len(cells)} cells")
        dataset, name, frames, label = cells
        id = line.path_inside(str(PurePosixPath(dataset, name)))
        media = self.root / id
        clip = SourceClip(
            id=id.with_suffix("").as_posix(),
            media=media,
            text="",
            split=self.split,
            speaker=_speaker(dataset, name),
            audio=self._audio(media),
            needs_audio=self.sound != "none",
        )
        text_file = self._text_file(id) if self.token_ids and self.pieces is None else None
        for file, advice in (
            (media, ""),
            (clip.audio, "; if the sound is in the .mp4, or there is none, set `sound`"),
            (text_file, "; give `units`, auto_avsr's unigram5000_units.txt, to read the token ids instead"),
        ):
            if file is not None and not os.path.isfile(file):
                return replace(clip, problem=line.problem(Reason.MISSING_FILE, f"{file} does not exist{advice}"))
        if text_file is not None:
            label = " ".join(read_label(text_file))
        elif self.token_ids and self.pieces is not None:
            label = _decode(line, label, self.pieces)
        num_frames = line.count(frames, "frames")
        return replace(clip, text=normalize_label(label), cropped_frames=num_frames, seconds=num_frames / FRAME_RATE)

    def _audio(self, media: Path) -> Path | None:
        beside = media.with_suffix(".wav")
        if self.sound == "mp4":
            return beside if os.path.isfile(beside) else media
        return beside if self.sound == "wav" else None

    def _text_file(self, id: PurePosixPath) -> Path:
        """In the tree of texts that stands beside the tree of videos; beside the video itself if there is no such."""
        return (self.root / _VIDEO_TREE.sub("_text_", id.as_posix(), count=1)).with_suffix(".txt")


def _speaker(dataset: str, name: str) -> str | None:
    """LRS3's ``tree/subset/talk/clip``: a talk is one speaker's. The folders of LRS2 are programmes."""
    parts = PurePosixPath(name).parts
    return parts[2] if dataset == "lrs3" and len(parts) == 4 else None


def _decode(line: LabelLine, label: str, pieces: Mapping[str, str]) -> str:
    ids = label.split()
    for id in ids:
        if pieces.get(id, _UNKNOWN) == _UNKNOWN:
            raise line.bad_label(f"token {id} has no text in the units file; without `units` the .txt tree is read")
    return "".join(pieces[id] for id in ids).replace(_WORD_START, " ")
