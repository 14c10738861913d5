"""Counts by split and by reason."""

from pathlib import Path

from data_prep.quality.counts import by_split, count_clips, count_reasons, num_shared_speakers
from data_prep.rejection import Reason, Rejection
from omni_avsr.types import Clip


def clip(id_: str, split: str, speaker: str | None = None, text: str = "two words") -> Clip:
    return Clip(id_, text, split, 1.5, audio=Path("a.flac"), speaker=speaker)


def test_a_split_counts_its_clips_words_seconds_and_known_speakers() -> None:
    clips = [clip("a", "train", "x"), clip("b", "train", "x", "one two three"), clip("c", "train")]
    counts = count_clips("train", clips)
    assert (counts.num_clips, counts.num_words, counts.seconds, counts.speakers) == (3, 7, 4.5, {"x"})
    assert (counts.num_with_audio, counts.num_with_video) == (3, 0)


def test_splits_come_by_size_and_the_smallest_share_an_entry() -> None:
    clips = [
        clip(f"{split}{n}", split) for split, size in zip("abcde", (1, 5, 3, 2, 4), strict=True) for n in range(size)
    ]
    assert {name: len(group) for name, group in by_split(clips, 5).items()} == {"b": 5, "e": 4, "c": 3, "d": 2, "a": 1}
    assert {name: len(group) for name, group in by_split(clips, 3).items()} == {"b": 5, "e": 4, "3 other splits": 6}


def test_speakers_of_several_splits_are_counted_once() -> None:
    splits = [
        count_clips("train", [clip("a", "train", "x"), clip("b", "train", "y")]),
        count_clips("test", [clip("c", "test", "x"), clip("d", "test", "z")]),
        count_clips("validation", [clip("e", "validation", "x")]),
    ]
    assert num_shared_speakers(splits) == 1


def test_the_most_frequent_reason_comes_first_with_its_first_clips() -> None:
    rejections = [Rejection("z", "m", Reason.NO_FACE, "")]
    rejections += [Rejection(str(n), "m", Reason.TIMEOUT, "") for n in range(5)]
    rejections += [Rejection("y", "m", Reason.CORRUPT, "")]
    counts = count_reasons(rejections)
    assert [(one.reason, one.num_clips) for one in counts] == [
        (Reason.TIMEOUT, 5),
        (Reason.CORRUPT, 1),
        (Reason.NO_FACE, 1),
    ]
    assert [example.id for example in counts[0].examples] == ["0", "1", "2"]
