"""Scores hypotheses: WER and CER with bootstrap intervals, paired differences, and the JSONL file of hypotheses."""

from __future__ import annotations

import json
import logging
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO, Literal

import jiwer
import numpy as np
from pydantic import TypeAdapter, ValidationError

from omni_avsr.normalize import normalize_for_scoring
from omni_avsr.types import Hypothesis, Task

NUM_RESAMPLES = 10_000
MATCHED = "matched"
"""The condition of clips whose audio and video belong together; it is what other conditions are compared with."""

Unit = Literal["words", "characters"]
logger = logging.getLogger(__name__)
_HYPOTHESIS = TypeAdapter(Hypothesis)


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


@dataclass(frozen=True)
class Interval:
    """A percentile bootstrap interval; the bounds are fractions."""

    low: float
    high: float
    level: float


@dataclass(frozen=True)
class Setting:
    """What all hypotheses of one score share."""

    task: Task
    rates: str
    snr_db: float | None = None
    condition: str = MATCHED

    @property
    def sort_key(self) -> tuple:
        """Matched before other conditions, clean before noisy, then the order of the paper's columns."""
        noise = -np.inf if self.snr_db is None else -self.snr_db
        rates = tuple(int(rate) for rate in self.rates.split(","))
        return self.condition != MATCHED, self.condition, noise, list(Task).index(self.task), rates


@dataclass(frozen=True)
class Score:
    """Corpus-level error rates of one setting, as fractions, with the summed counts behind them."""

    setting: Setting
    wer: float
    wer_interval: Interval
    cer: float
    cer_interval: Interval
    num_clips: int
    words: ErrorCounts
    characters: ErrorCounts

    @property
    def num_words(self) -> int:
        return self.words.length


@dataclass(frozen=True)
class Difference:
    """Error rate of a minus error rate of b over the same clips, as a fraction; negative means that a is better."""

    value: float
    interval: Interval
    num_clips: int


@dataclass(frozen=True)
class Comparison:
    """The paired difference in WER between two settings of one model."""

    a: Setting
    b: Setting
    difference: Difference


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
    return _rate(_sum(clips, "words"), len(clips))


def cer(clips: Sequence[ClipCounts]) -> float:
    """Character errors over reference characters of the whole corpus, a fraction; spaces count as characters."""
    return _rate(_sum(clips, "characters"), len(clips))


def bootstrap_interval(
    clips: Sequence[ClipCounts],
    unit: Unit = "words",
    *,
    seed: int,
    level: float = 0.95,
    num_resamples: int = NUM_RESAMPLES,
    groups: Sequence[str] | None = None,
) -> Interval:
    """Percentile interval of the error rate, resampling clips, or whole groups of clips (such as speakers).

    groups: the group of each clip, in the order of ``clips``. Clips of a speaker err alike, so intervals that are to
        hold for new speakers need it; at least two groups, or ValueError.
    """
    _rate(_sum(clips, unit), len(clips))
    sums = _resampled_sums(_matrix(clips, unit), groups, seed, num_resamples)
    return _percentile_interval(_ratios(sums), level)


def paired_difference(
    clips_a: Sequence[ClipCounts],
    clips_b: Sequence[ClipCounts],
    unit: Unit = "words",
    *,
    seed: int,
    level: float = 0.95,
    num_resamples: int = NUM_RESAMPLES,
    groups: Sequence[str] | None = None,
) -> Difference:
    """Error rate of a minus that of b; each resample draws the same clips for both (``groups``: in a's order).

    ValueError if the two do not hold exactly the same clips, or a clip's references differ in length.
    """
    by_id = {clip.id: clip for clip in clips_b}
    unmatched = sorted({clip.id for clip in clips_a} ^ set(by_id))
    if unmatched or len(clips_a) != len(clips_b):
        named = ", ".join(unmatched[:5]) or "none, but some occur twice"
        raise ValueError(f"{len(clips_a)} clips against {len(clips_b)}; {len(unmatched)} without a partner: {named}")
    clips_b = [by_id[clip.id] for clip in clips_a]
    unequal = [a.id for a, b in zip(clips_a, clips_b, strict=True) if a.of(unit).length != b.of(unit).length]
    if unequal:
        raise ValueError(f"{len(unequal)} clips have references of other lengths, such as {', '.join(unequal[:5])}")
    value = _rate(_sum(clips_a, unit), len(clips_a)) - _rate(_sum(clips_b, unit), len(clips_b))
    both = np.concatenate([_matrix(clips_a, unit), _matrix(clips_b, unit)], axis=1)
    sums = _resampled_sums(both, groups, seed, num_resamples)
    return Difference(value, _percentile_interval(_ratios(sums[:, :2]) - _ratios(sums[:, 2:]), level), len(clips_a))


def score(
    hypotheses: Iterable[Hypothesis],
    *,
    seed: int,
    level: float = 0.95,
    num_resamples: int = NUM_RESAMPLES,
    by_speaker: bool = False,
) -> list[Score]:
    """One score per (task, rates, SNR, condition) of one data set, in the order of the paper's columns."""
    scores = []
    for setting, clips in _by_setting(hypotheses).items():
        intervals = {
            unit: bootstrap_interval(
                clips, unit, seed=seed, level=level, num_resamples=num_resamples, groups=_speakers(clips, by_speaker)
            )
            for unit in ("words", "characters")
        }
        words, characters = _sum(clips, "words"), _sum(clips, "characters")
        rates = wer(clips), intervals["words"], cer(clips), intervals["characters"]
        scores.append(Score(setting, *rates, len(clips), words, characters))
    return scores


def compare(
    hypotheses: Iterable[Hypothesis],
    *,
    seed: int,
    level: float = 0.95,
    num_resamples: int = NUM_RESAMPLES,
    by_speaker: bool = False,
) -> list[Comparison]:
    """What a second modality brings, and what another condition costs, as paired differences in WER.

    AVSR minus ASR at its audio rate and minus VSR at its video rate, under the same SNR and condition; VSR does not
    hear, so its clean hypotheses stand in where it was not decoded again for an SNR. Every setting of a condition other
    than ``matched`` is compared with the matched one. Pairs of which one side was not decoded are left out.
    """
    clips = _by_setting(hypotheses)
    comparisons = []
    for a in clips:
        for b in _partners(a):
            if b.task is Task.VSR and b not in clips:
                b = Setting(b.task, b.rates, None, b.condition)
            if b in clips:
                groups = _speakers(clips[a], by_speaker)
                difference = paired_difference(
                    clips[a], clips[b], seed=seed, level=level, num_resamples=num_resamples, groups=groups
                )
                comparisons.append(Comparison(a, b, difference))
    return comparisons


def _partners(setting: Setting) -> list[Setting]:
    partners = []
    if setting.task is Task.AVSR:
        for task, rate in zip((Task.ASR, Task.VSR), setting.rates.split(","), strict=True):
            partners.append(Setting(task, rate, setting.snr_db, setting.condition))
    if setting.condition != MATCHED:
        partners.append(Setting(setting.task, setting.rates, setting.snr_db))
    return partners


def write_hypotheses(path: Path, hypotheses: Iterable[Hypothesis]) -> None:
    """Write a JSONL file, one hypothesis a line, in one atomic step."""
    write_atomic(path, b"".join(_line(hypothesis) for hypothesis in hypotheses))


def append_hypothesis(file: BinaryIO, hypothesis: Hypothesis) -> None:
    """Add one line to a file opened with ``open(path, "ab")`` and hand it to the system, so that a kill keeps it."""
    file.write(_line(hypothesis))
    file.flush()


def read_hypotheses(path: Path, *, drop_torn_line: bool = False) -> list[Hypothesis]:
    """Read a JSONL file; ValueError with file and line for whatever is not a hypothesis.

    drop_torn_line: a last line that a kill broke off in the middle of its write is dropped, with a warning.
    """
    hypotheses = []
    # Split at \n alone: str.splitlines also breaks at separators that may stand inside a JSON string.
    lines = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            hypotheses.append(_HYPOTHESIS.validate_json(line, strict=True, extra="forbid"))
        except ValidationError as error:
            first = error.errors()[0]
            problem = " ".join([*(f"{key}:" for key in first["loc"]), first["msg"]])
            torn = number == len(lines) and first["type"] == "json_invalid"
            if not (drop_torn_line and torn):
                raise ValueError(f"{path}:{number}: not a hypothesis: {problem}") from error
            logger.warning("%s:%d: dropped a torn last line (%s)", path, number, problem)
    return hypotheses


def resume_hypotheses(path: Path) -> list[Hypothesis]:
    """What an interrupted evaluation has written so far, nothing if there is no file; appending is safe afterwards."""
    if not path.exists():
        return []
    hypotheses = read_hypotheses(path, drop_torn_line=True)
    if not path.read_bytes().endswith(b"\n"):
        write_hypotheses(path, hypotheses)
    return hypotheses


def write_atomic(path: Path, data: bytes) -> None:
    """Write a file so that at every moment either the old content or the new one stands under its name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(data)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _line(hypothesis: Hypothesis) -> bytes:
    return json.dumps(asdict(hypothesis), ensure_ascii=False, allow_nan=False).encode() + b"\n"


def _by_setting(hypotheses: Iterable[Hypothesis]) -> dict[Setting, list[ClipCounts]]:
    groups: dict[Setting, list[Hypothesis]] = {}
    for hypothesis in hypotheses:
        setting = Setting(hypothesis.task, hypothesis.rates, hypothesis.snr_db, hypothesis.condition)
        groups.setdefault(setting, []).append(hypothesis)
    return {setting: count_errors(groups[setting]) for setting in sorted(groups, key=lambda setting: setting.sort_key)}


def _speakers(clips: Sequence[ClipCounts], by_speaker: bool) -> list[str] | None:
    if not by_speaker:
        return None
    unnamed = [clip.id for clip in clips if clip.speaker is None]
    if unnamed:
        raise ValueError(f"{len(unnamed)} clips have no speaker to resample by, such as {', '.join(unnamed[:5])}")
    return [clip.speaker for clip in clips if clip.speaker is not None]


def _counts(output: jiwer.WordOutput | jiwer.CharacterOutput) -> list[ErrorCounts]:
    """jiwer's alignments as counts per clip: it sums the counts over all clips itself."""
    counts = []
    for reference, chunks in zip(output.references, output.alignments, strict=True):
        edits = dict.fromkeys(("substitute", "delete", "insert", "equal"), 0)
        for chunk in chunks:
            edits[chunk.type] += max(chunk.ref_end_idx - chunk.ref_start_idx, chunk.hyp_end_idx - chunk.hyp_start_idx)
        counts.append(ErrorCounts(edits["substitute"], edits["delete"], edits["insert"], len(reference)))
    return counts


def _sum(clips: Sequence[ClipCounts], unit: Unit) -> ErrorCounts:
    return sum((clip.of(unit) for clip in clips), start=ErrorCounts(0, 0, 0, 0))


def _rate(counts: ErrorCounts, num_clips: int) -> float:
    if counts.length == 0:
        raise ValueError(f"no error rate without a reference: all {num_clips} references are empty after normalisation")
    return counts.errors / counts.length


def _matrix(clips: Sequence[ClipCounts], unit: Unit) -> np.ndarray:
    """[clips, 2]: errors and reference length."""
    return np.array([(clip.of(unit).errors, clip.of(unit).length) for clip in clips], dtype=np.float64)


def _resampled_sums(values: np.ndarray, groups: Sequence[str] | None, seed: int, num_resamples: int) -> np.ndarray:
    """[clips, columns] -> [resamples, columns]: column sums over clips (or groups) drawn with replacement."""
    if groups is not None:
        names, group_of_clip = np.unique(np.asarray(groups), return_inverse=True)
        if len(names) < 2 or len(groups) != len(values):
            raise ValueError(f"resampling groups takes two or more: {len(names)} for {len(groups)}/{len(values)} clips")
        values = (np.arange(len(names))[:, None] == group_of_clip).astype(np.float64) @ values
    generator = np.random.default_rng(seed)
    num_rows = len(values)
    chunk = max(1, 2_000_000 // num_rows)
    sums = []
    for start in range(0, num_resamples, chunk):
        size = min(chunk, num_resamples - start)
        # How often each row was drawn, as a matrix product's left side: no [resamples, clips, columns] is ever built.
        drawn = generator.integers(num_rows, size=(size, num_rows)) + num_rows * np.arange(size)[:, None]
        times_drawn = np.bincount(drawn.ravel(), minlength=size * num_rows).reshape(size, num_rows)
        sums.append(times_drawn.astype(np.float64) @ values)
    return np.concatenate(sums)


def _ratios(sums: np.ndarray) -> np.ndarray:
    """Errors over length per resample; nan where a resample holds only empty references."""
    return np.divide(sums[:, 0], sums[:, 1], out=np.full(len(sums), np.nan), where=sums[:, 1] > 0)


def _percentile_interval(samples: np.ndarray, level: float) -> Interval:
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, not {level}")
    low, high = np.nanquantile(samples, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high), level)
