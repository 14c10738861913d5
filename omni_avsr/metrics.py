"""Scores of an evaluation: hypotheses -> WER and CER of each setting, and the paired differences that matter."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from omni_avsr.bootstrap import NUM_RESAMPLES, Difference, Interval, bootstrap_interval, paired_difference
from omni_avsr.error_counts import ClipCounts, ErrorCounts, cer, count_errors, total, wer
from omni_avsr.types import MATCHED, Hypothesis, Task


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
class Comparison:
    """The paired difference in WER between two settings of one model."""

    a: Setting
    b: Setting
    difference: Difference


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
        words, characters = total(clips, "words"), total(clips, "characters")
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
