"""What was said in a file, and how it is written down: plain text, JSON, and subtitles."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from omni_avsr.types import Modality, Rates, Task, Word

TranscriptFormat = Literal["text", "json", "srt", "vtt"]

MAX_CUE_SECONDS = 6.0
MAX_CUE_CHARACTERS = 42
"""The longest line that subtitle guidelines recommend."""
_LONGEST_PAUSE = 1.0


@dataclass(frozen=True)
class Transcript:
    """What a model wrote for a file.

    task, rates: that were used. words: with their times in seconds; empty when no CTC head could tell them. seconds: of
    the file. num_tokens: of the LLM that each modality took. notes: what the reader should know, such as a fallback.
    """

    file: str
    task: Task
    rates: Rates
    text: str
    words: tuple[Word, ...]
    seconds: float
    num_tokens: Mapping[Modality, int]
    notes: tuple[str, ...] = ()


def formatted(transcript: Transcript, form: TranscriptFormat) -> str:
    """A transcript in one of the formats, ending in a line break.

    Raises:
        ValueError: subtitles were asked for, and there are no word times.
    """
    if form == "text":
        return transcript.text + "\n"
    if form == "json":
        record = asdict(transcript) | {"rates": transcript.rates.label(transcript.task)}
        return json.dumps(record, ensure_ascii=False) + "\n"
    if transcript.text and not transcript.words:
        raise ValueError(f"{transcript.file}: subtitles need word times, and this model has no CTC head to find them")
    return _subtitles(cues(transcript.words), form)


def cues(words: Iterable[Word]) -> list[list[Word]]:
    """Words in groups that fit a subtitle: at most so many seconds and characters, and no long pause inside."""
    groups: list[list[Word]] = []
    for word in words:
        group = groups[-1] if groups else []
        characters = sum(len(other.text) + 1 for other in group) + len(word.text)
        fits = (
            group
            and characters <= MAX_CUE_CHARACTERS
            and word.end - group[0].start <= MAX_CUE_SECONDS
            and word.start - group[-1].end <= _LONGEST_PAUSE
        )
        if fits:
            group.append(word)
        else:
            groups.append([word])
    return groups


def _subtitles(groups: Sequence[Sequence[Word]], form: TranscriptFormat) -> str:
    point, head = (",", "") if form == "srt" else (".", "WEBVTT\n\n")
    blocks = []
    for number, group in enumerate(groups, start=1):
        span = f"{_clock(group[0].start, point)} --> {_clock(group[-1].end, point)}"
        label = f"{number}\n" if form == "srt" else ""
        blocks.append(f"{label}{span}\n{' '.join(word.text for word in group)}\n")
    return head + "\n".join(blocks)


def _clock(seconds: float, point: str) -> str:
    milliseconds = round(seconds * 1000)
    minutes, rest = divmod(milliseconds, 60_000)
    return f"{minutes // 60:02}:{minutes % 60:02}:{rest // 1000:02}{point}{rest % 1000:03}"
