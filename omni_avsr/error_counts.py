"""Word and character errors of each clip, and the rates of a whole corpus."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import jiwer

from omni_avsr.normalize import normalize_for_scoring
from omni_avsr.types import Hypothesis

Unit = Literal["words", "characters"]


@dataclass(frozen=True)
class ErrorCounts:
    """Edits that turn a reference of ``length`` words (or characters, single spaces included) into the hypothesis."""

    substitutions: int
    deletions: int
    insertions: int
    length: int

    @property
    def errors(self) -> int:
        return self.substitutions + self.deletions + self.insertions

    def __add__(self, other: ErrorCounts) -> ErrorCounts:
        return ErrorCounts(
            self.substitutions + other.substitutions,
            self.deletions + other.deletions,
            self.insertions + other.insertions,
            self.length + other.length,
        )


@dataclass(frozen=True)
class ClipCounts:
    """The errors of one clip."""

    id: str
    speaker: str | None
    words: ErrorCounts
    characters: ErrorCounts

    def of(self, unit: Unit) -> ErrorCounts:
        return self.words if unit == "words" else self.characters


def count_errors(hypotheses: Sequence[Hypothesis]) -> list[ClipCounts]:
    """Word and character edits per clip, both texts normalised for scoring. A clip that occurs twice is an error."""
    twice = [id_ for id_, count in Counter(hypothesis.id for hypothesis in hypotheses).items() if count > 1]
    if twice:
        raise ValueError(f"{len(twice)} clips have more than one hypothesis, such as {', '.join(sorted(twice)[:5])}")
    references = [normalize_for_scoring(hypothesis.reference) for hypothesis in hypotheses]
    texts = [normalize_for_scoring(hypothesis.text) for hypothesis in hypotheses]
    words = _counts(jiwer.process_words(references, texts))
    characters = _counts(jiwer.process_characters(references, texts))
    return [ClipCounts(h.id, h.speaker, w, c) for h, w, c in zip(hypotheses, words, characters, strict=True)]


def wer(clips: Sequence[ClipCounts]) -> float:
    """Word errors over reference words of the whole corpus, a fraction. ValueError if there are no reference words."""
    return error_rate(clips, "words")


def cer(clips: Sequence[ClipCounts]) -> float:
    """Character errors over reference characters of the whole corpus, a fraction; spaces count as characters."""
    return error_rate(clips, "characters")


def error_rate(clips: Sequence[ClipCounts], unit: Unit) -> float:
    """Errors over reference length of the whole corpus, a fraction. ValueError if all references are empty."""
    counts = total(clips, unit)
    if counts.length == 0:
        raise ValueError(
            f"no error rate without a reference: all {len(clips)} references are empty after normalisation"
        )
    return counts.errors / counts.length


def total(clips: Sequence[ClipCounts], unit: Unit) -> ErrorCounts:
    """The counts of all clips, summed."""
    return sum((clip.of(unit) for clip in clips), start=ErrorCounts(0, 0, 0, 0))


def _counts(output: jiwer.WordOutput | jiwer.CharacterOutput) -> list[ErrorCounts]:
    """jiwer's alignments as counts per clip: it sums the counts over all clips itself."""
    counts = []
    for reference, chunks in zip(output.references, output.alignments, strict=True):
        edits = dict.fromkeys(("substitute", "delete", "insert", "equal"), 0)
        for chunk in chunks:
            edits[chunk.type] += max(chunk.ref_end_idx - chunk.ref_start_idx, chunk.hyp_end_idx - chunk.hyp_start_idx)
        counts.append(ErrorCounts(edits["substitute"], edits["delete"], edits["insert"], len(reference)))
    return counts
