"""Which clips are held out where a corpus does not say it: fixed rules, by names alone.

A name's place in [0, 1) is its SHA-256 (see ``place_of``). So the choice needs no seed, is the same on every machine,
and stays when other clips come or go.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from hashlib import sha256

from data_prep.corpora.source import SourceClip

HELD_OUT = "held_out"
"""The split of clips that are good, but too near to validation or test clips to be trained on."""
TEST_SHARE = 0.1
VALIDATION_SHARE = 0.05
MIN_SPEAKERS = 10
"""From so many speakers on, whole speakers are held out; of fewer, single clips."""

_SPLIT_NAMES = {"training": "train", "val": "validation", "valid": "validation", "dev": "validation", "eval": "test"}


def split_named(name: str) -> str:
    """The split as this project calls it: train, validation or test for their usual other names, else the name."""
    name = name.strip()
    return _SPLIT_NAMES.get(name.lower(), name.lower() if name.lower() in _SPLIT_NAMES.values() else name)


def place_of(name: str) -> float:
    """A number in [0, 1) by the name alone: the first six bytes of its SHA-256 in UTF-8, as a fraction."""
    digest = sha256(name.encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def split_by_name(name: str) -> str:
    """A tenth of all names is test, a twentieth validation, the rest train."""
    place = place_of(name)
    if place < TEST_SHARE:
        return "test"
    return "validation" if place < TEST_SHARE + VALIDATION_SHARE else "train"


def held_out(groups: Iterable[str], share: float = VALIDATION_SHARE) -> frozenset[str]:
    """The groups that are taken out of training: those whose place is below ``share``.

    Of two or more groups at least the one in the lowest place is taken, and at least the one in the highest stays.
    """
    ranked = sorted(set(groups), key=lambda group: (place_of(group), group))
    num_below = sum(place_of(group) < share for group in ranked)
    return frozenset(ranked[: min(max(num_below, 1), len(ranked) - 1)]) if ranked else frozenset()


def with_validation(clips: Sequence[SourceClip], share: float = VALIDATION_SHARE) -> list[SourceClip]:
    """The clips in their order; if some are train and none validation, a share of train becomes validation.

    Whole speakers move where train has at least ``MIN_SPEAKERS`` of them and knows the speaker of each clip, else
    single clips (``held_out``). Clips with a problem do not count.
    """
    usable = [clip for clip in clips if clip.problem is None]
    train = [clip for clip in usable if clip.split == "train"]
    if not train or any(clip.split == "validation" for clip in usable):
        return list(clips)
    speakers = {clip.speaker for clip in train}
    by_speaker = None not in speakers and len(speakers) >= MIN_SPEAKERS

    def group(clip: SourceClip) -> str:
        return clip.speaker if by_speaker and clip.speaker is not None else clip.id

    chosen = held_out((group(clip) for clip in train), share)
    return [
        replace(clip, split="validation") if clip.split == "train" and group(clip) in chosen else clip for clip in clips
    ]


def split_by_speaker(clips: Sequence[SourceClip], split_of: Callable[[str], str]) -> list[SourceClip]:
    """The clips with the split of their speaker, and a validation split in any case.

    Where that would leave train or test empty (few speakers are there), splits are by the clips' ids instead
    (``split_by_name``), and speakers are in several of them.
    """
    splits = [split_of(clip.speaker or "") for clip in clips]
    if not {"train", "test"} <= {split for clip, split in zip(clips, splits, strict=True) if clip.problem is None}:
        splits = [split_by_name(clip.id) for clip in clips]
    return with_validation([replace(clip, split=split) for clip, split in zip(clips, splits, strict=True)])
