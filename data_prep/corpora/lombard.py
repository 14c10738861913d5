"""Read the Lombard GRID corpus (Alghamdi, Maddock, Marxer, Barker, Brown 2018; Zenodo record 3736465)."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from data_prep.corpora.files import AUDIO_SUFFIXES, VIDEO_SUFFIXES, files_below, stem_of, suffix_of
from data_prep.corpora.folder import TABLE_NAME, read_folder
from data_prep.corpora.source import SourceClip
from data_prep.corpora.splits import split_by_speaker
from data_prep.rejection import Problem, Reason

View = Literal["front", "side"]

_GRAMMAR = (
    {"b": "bin", "l": "lay", "p": "place", "s": "set"},
    {"b": "blue", "g": "green", "r": "red", "w": "white"},
    {"a": "at", "b": "by", "i": "in", "w": "with"},
    {letter: letter for letter in "abcdefghijklmnopqrstuvxyz"},
    {
        "z": "zero",
        "1": "one",
        "2": "two",
        "3": "three",
        "4": "four",
        "5": "five",
        "6": "six",
        "7": "seven",
        "8": "eight",
        "9": "nine",
    },
    {"a": "again", "n": "now", "p": "please", "s": "soon"},
)
"""GRID's sentences: a name has a letter for each word."""
# A few takes are of another sentence than the list had: s46_p_gbszs_WRONG_sgbszs was read as sgbszs.
_NAME = re.compile(r"(?P<talker>s[0-9]+)_[a-z0-9]_(?P<listed>[^_]+)(_WRONG_(?P<read>.+))?", re.IGNORECASE)
_VIEWS = ("front", "side")


def read_lombard_grid(folder: Path, view: View = "front") -> list[SourceClip]:
    """The clips of Lombard GRID, sorted by id, which is ``<talker>/<name>``, such as ``s30/s30_l_bbbm4a``.

    A name is the talker, l (Lombard) or p (plain) and the sentence. Where the corpus's own folders are (``front``,
    ``side`` and ``audio``, at any depth), a clip is the video of this ``view`` with the sound of its audio file; one
    without such a video is a clip of audio alone, and so are all where there is only audio.

    If there is a ``transcripts.tsv``, the clips are those of the table (``read_folder``). Without it, talkers whose
    number ends in 0 are test, those in 5 validation, all others train; where that leaves train or test empty, clips are
    split one by one (``split_by_speaker``). A file without a sentence in its name is a clip with a problem. ValueError
    if no file has one.
    """
    if (folder / TABLE_NAME).is_file():
        return read_folder(folder, split="train")
    videos: dict[str, str] = {}
    sounds: dict[str, str] = {}
    other_views: dict[str, str] = {}
    for path in files_below(folder):
        if suffix_of(path) in AUDIO_SUFFIXES:
            sounds.setdefault(stem_of(path), path)
        elif suffix_of(path) in VIDEO_SUFFIXES:
            its_view = next((name for name in reversed(path.split("/")[:-1]) if name in _VIEWS), view)
            (videos if its_view == view else other_views).setdefault(stem_of(path), path)
    names = videos.keys() | sounds.keys() | other_views.keys()
    clips = []
    for name in sorted(names):
        media = videos.get(name) or sounds.get(name)
        if media is None:
            problem = Problem(Reason.MISSING_FILE, f"{folder / other_views[name]}: no {view} view and no sound of it")
            clips.append(_clip(folder, name, other_views[name], None, problem))
        else:
            clips.append(_clip(folder, name, media, sounds.get(name)))
    if all(clip.problem is not None and clip.problem.reason is Reason.BAD_LABEL for clip in clips):
        raise ValueError(
            f"{folder}: no clips of Lombard GRID; expected names like s2_l_bbim3a.mov and .wav in front, side and audio"
        )
    return sorted(split_by_speaker(clips, _split_of), key=lambda clip: clip.id)


def sentence_of(code: str) -> str | None:
    """The sentence that six letters stand for, or None: ``bbbm4a`` is bin blue by m four again."""
    code = code.lower()
    if len(code) != len(_GRAMMAR) or any(letter not in slot for letter, slot in zip(code, _GRAMMAR, strict=True)):
        return None
    return " ".join(slot[letter] for letter, slot in zip(code, _GRAMMAR, strict=True))


def _clip(folder: Path, name: str, media: str, sound: str | None, problem: Problem | None = None) -> SourceClip:
    match = _NAME.fullmatch(name)
    talker = match["talker"] if match else None
    sentence = sentence_of(match["read"] or match["listed"]) if match else None
    if sentence is None:
        problem = Problem(Reason.BAD_LABEL, f"{folder / media}: no sentence of GRID in its name, such as s2_l_bbim3a")
    return SourceClip(
        id=f"{talker}/{name}" if talker else name,
        media=folder / media,
        text=sentence or "",
        split="train",
        speaker=talker,
        audio=folder / sound if sound is not None and sound != media else None,
        needs_video=media != sound,
        problem=problem,
    )


def _split_of(talker: str) -> str:
    return {"0": "test", "5": "validation"}.get(talker[-1:], "train")
