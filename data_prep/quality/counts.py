"""What there is to count of a prepared corpus: clips by split, rejections by reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from data_prep.rejection import Reason, Rejection
from omni_avsr.types import Clip

NUM_EXAMPLES = 3


@dataclass(frozen=True)
class SplitCounts:
    """The clips of a split, or of all of them. speakers: the distinct ones that are known."""

    name: str
    num_clips: int
    num_words: int
    num_with_video: int
    num_with_audio: int
    seconds: float
    speakers: frozenset[str]


@dataclass(frozen=True)
class ReasonCount:
    """The clips that were rejected for one reason, and the first few of them."""

    reason: Reason
    num_clips: int
    examples: tuple[Rejection, ...]


def count_clips(name: str, clips: Sequence[Clip]) -> SplitCounts:
    return SplitCounts(
        name=name,
        num_clips=len(clips),
        num_words=sum(len(clip.text.split()) for clip in clips),
        num_with_video=sum(clip.video is not None for clip in clips),
        num_with_audio=sum(clip.audio is not None for clip in clips),
        seconds=sum(clip.seconds for clip in clips),
        speakers=frozenset(clip.speaker for clip in clips if clip.speaker is not None),
    )


def by_split(clips: Sequence[Clip], max_splits: int) -> dict[str, list[Clip]]:
    """The clips of each split, the largest split first; all splits beyond ``max_splits`` share the last entry."""
    sizes = Counter(clip.split for clip in clips)
    names = sorted(sizes, key=lambda name: (-sizes[name], name))
    kept = names if len(names) <= max_splits else names[: max_splits - 1]
    others = f"{len(names) - len(kept)} other splits"
    groups: dict[str, list[Clip]] = {name: [] for name in kept}
    for clip in clips:
        groups.setdefault(clip.split if clip.split in kept else others, []).append(clip)
    return groups


def num_shared_speakers(splits: Sequence[SplitCounts]) -> int:
    """Speakers that more than one split holds."""
    return sum(count > 1 for count in Counter(speaker for split in splits for speaker in split.speakers).values())


def count_reasons(rejections: Sequence[Rejection]) -> list[ReasonCount]:
    """The most frequent reason first."""
    groups: dict[Reason, list[Rejection]] = {}
    for rejection in rejections:
        groups.setdefault(rejection.reason, []).append(rejection)
    counts = [ReasonCount(reason, len(group), tuple(group[:NUM_EXAMPLES])) for reason, group in groups.items()]
    return sorted(counts, key=lambda count: (-count.num_clips, count.reason))
