"""Read LibriSpeech (Panayotov, Chen, Povey, Khudanpur 2015) and audio trees laid out like it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from data_prep.corpora.files import AUDIO_SUFFIXES, files_below, stem_of, suffix_of
from data_prep.corpora.label_lines import LabelLine, read_label_lines
from data_prep.corpora.source import SourceClip
from data_prep.corpora.splits import split_named, with_validation
from data_prep.rejection import Problem, ProblemError, Reason
from omni_avsr.normalize import normalize_label

_TRANSCRIPTS = ".trans.txt"
_SUBSET = re.compile(r"(train|dev|test)(?:-.+)?")


def read_librispeech(folder: Path) -> list[SourceClip]:
    """The utterances of a tree ``<subset>/<speaker>/<chapter>/<utterance>.flac``, sorted by id, which is that path.

    ``folder`` is a subset or has some at any depth. A subset's name begins with its split: train, dev (validation) or
    test; where no folder is named so, all is train. A tree with train and without dev gives up a share of train for
    validation (``with_validation``). Transcripts are beside the audio in ``*.trans.txt``: a line is an utterance's name
    and its text. The speaker is what the name begins with, up to the first hyphen.

    Audio whose line is missing or cannot be read, and a line without its audio, are clips with a problem. ValueError if
    there are no transcripts at all.
    """
    chapters: dict[str, _Chapter] = {}
    for path in files_below(folder):
        place, _, name = path.rpartition("/")
        if suffix_of(name) in AUDIO_SUFFIXES or name.endswith(_TRANSCRIPTS):
            chapter = chapters.setdefault(place, _Chapter(*_id_and_split(folder, place)))
            if name.endswith(_TRANSCRIPTS):
                chapter.transcripts.append(folder / path)
            else:
                chapter.audio[stem_of(name)] = folder / path
    if not any(chapter.transcripts for chapter in chapters.values()):
        raise ValueError(
            f"{folder}: no transcripts; expected <subset>/<speaker>/<chapter>/<speaker>-<chapter>{_TRANSCRIPTS}"
        )
    clips = [clip for chapter in chapters.values() for clip in chapter.clips()]
    return sorted(with_validation(clips), key=lambda clip: clip.id)


@dataclass(frozen=True)
class _Chapter:
    """The files of one folder. ``id``: its path from the subset on. ``audio``: by the names of the utterances."""

    id: str
    split: str
    audio: dict[str, Path] = field(default_factory=dict)
    transcripts: list[Path] = field(default_factory=list)

    def clips(self) -> list[SourceClip]:
        clips = []
        unnamed = dict(self.audio)
        for path in self.transcripts:
            try:
                lines = read_label_lines(path)
            except (OSError, ValueError) as error:
                clips.append(self._clip(path.name, path, problem=Problem(Reason.BAD_LABEL, str(error))))
                continue
            for line in lines:
                if line.content.strip():
                    name = line.content.split(maxsplit=1)[0].decode(errors="replace")
                    unnamed.pop(name, None)
                    clips.append(self._read(name, line))
        for name, audio in unnamed.items():
            problem = Problem(Reason.MISSING_FILE, f"{audio}: no line of a *{_TRANSCRIPTS} beside it names it")
            clips.append(self._clip(name, audio, problem=problem))
        return clips

    def _read(self, name: str, line: LabelLine) -> SourceClip:
        audio = self.audio.get(name)
        if audio is None:
            problem = line.problem(Reason.MISSING_FILE, f"no audio {name!r} beside it")
            return self._clip(line.place if "/" in name else name, line.path, problem=problem)
        try:
            return self._clip(name, audio, "".join(line.text().split(maxsplit=1)[1:]))
        except ProblemError as error:
            return self._clip(name, audio, problem=error.problem)

    def _clip(self, name: str, media: Path, text: str = "", problem: Problem | None = None) -> SourceClip:
        return SourceClip(
            id=f"{self.id}/{name}" if self.id else name,
            media=media,
            text=normalize_label(text),
            split=self.split,
            speaker=name.partition("-")[0],
            problem=problem,
        )


def _id_and_split(folder: Path, place: str) -> tuple[str, str]:
    """A folder's path from the deepest subset on, and that subset's split; without a subset, the path and train."""
    parts = [folder.resolve().name, *place.split("/")] if place else [folder.resolve().name]
    at = max((at for at, part in enumerate(parts) if _SUBSET.fullmatch(part)), default=None)
    if at is None:
        return place, "train"
    return "/".join(parts[at:]), split_named(parts[at].partition("-")[0])
