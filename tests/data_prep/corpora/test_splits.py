"""Held-out rules: fixed by names, the same whatever else is there, and never empty where it can be helped."""

from collections import Counter
from pathlib import Path

import pytest

from data_prep.corpora.source import SourceClip
from data_prep.corpora.splits import held_out, place_of, split_by_name, split_by_speaker, split_named, with_validation
from data_prep.rejection import Problem, Reason


def clips(num_speakers: int, per_speaker: int, split: str = "train") -> list[SourceClip]:
    return [
        SourceClip(f"s{speaker}/{number}", Path("x.mp4"), "bin", split, f"s{speaker}")
        for speaker in range(num_speakers)
        for number in range(per_speaker)
    ]


def test_the_place_of_a_name_is_its_sha256() -> None:
    assert place_of("abc") == int("ba7816bf8f01", 16) / 2**48
    assert 0 <= place_of("\udcff") < 1


def test_names_are_split_in_the_documented_shares() -> None:
    counts = Counter(split_by_name(f"clip {number}") for number in range(10_000))
    assert counts["test"] == pytest.approx(1000, abs=100)
    assert counts["validation"] == pytest.approx(500, abs=80)
    assert set(counts) == {"train", "validation", "test"}


def test_what_is_held_out_does_not_change_when_other_groups_come() -> None:
    names = [f"talk {number}" for number in range(1000)]
    few = held_out(names[:500], 0.1)
    assert few == held_out(names, 0.1) & set(names[:500])
    assert len(held_out(names, 0.1)) == pytest.approx(100, abs=30)


@pytest.mark.parametrize("share", [0.0, 0.05, 1.0])
def test_of_two_groups_one_is_held_out_and_one_stays(share: float) -> None:
    assert len(held_out(["a", "b"], share)) == 1


def test_the_only_group_is_not_held_out() -> None:
    assert held_out(["a"], 1.0) == held_out([], 1.0) == frozenset()


def test_validation_takes_whole_speakers_of_many() -> None:
    split = with_validation(clips(40, 5))
    moved = {clip.speaker for clip in split if clip.split == "validation"}
    assert moved
    assert not moved & {clip.speaker for clip in split if clip.split == "train"}
    assert len(split) == 200


def test_validation_takes_single_clips_of_few_speakers() -> None:
    split = with_validation(clips(3, 100))
    assert Counter(clip.split for clip in split)["validation"] == pytest.approx(15, abs=10)
    assert {clip.speaker for clip in split if clip.split == "train"} == {"s0", "s1", "s2"}


def test_clips_of_unknown_speakers_are_taken_one_by_one() -> None:
    given = [*clips(20, 5), SourceClip("x", Path("x.mp4"), "bin", "train")]
    split = with_validation(given)
    moved = {clip.speaker for clip in split if clip.split == "validation"}
    assert moved & {clip.speaker for clip in split if clip.split == "train"}


def test_a_validation_split_that_is_there_is_left_alone() -> None:
    given = clips(3, 10) + clips(1, 1, "validation")
    assert with_validation(given) == given


def test_a_broken_validation_clip_is_no_validation_split() -> None:
    broken = SourceClip("x", Path("x"), "", "validation", problem=Problem(Reason.BAD_LABEL, "x:1: broken"))
    assert sum(clip.split == "validation" for clip in with_validation([*clips(1, 10), broken])) > 1


def test_test_clips_never_become_validation() -> None:
    assert {clip.split for clip in with_validation(clips(20, 5, "test"))} == {"test"}


def test_speakers_keep_apart_where_train_and_test_have_some() -> None:
    split = split_by_speaker(clips(20, 5), lambda speaker: "test" if speaker == "s7" else "train")
    of_speaker = {(clip.speaker, clip.split) for clip in split}
    assert len(of_speaker) == 20
    assert Counter(split for _, split in of_speaker)["validation"] >= 1
    assert ("s7", "test") in of_speaker


def test_a_lone_speaker_is_split_by_clips() -> None:
    split = split_by_speaker(clips(1, 300), lambda _: "test")
    assert {clip.split for clip in split} == {"train", "validation", "test"}
    assert all(clip.split == split_by_name(clip.id) for clip in split)


@pytest.mark.parametrize(
    ("name", "split"),
    [("val", "validation"), (" DEV", "validation"), ("valid", "validation"), ("Train", "train"), ("Mine", "Mine")],
)
def test_usual_names_of_splits_are_understood(name: str, split: str) -> None:
    assert split_named(name) == split
