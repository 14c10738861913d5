"""Scoring: hand-computed error counts, intervals that cover, pairs by clip, and the file of hypotheses."""

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from omni_avsr.metrics import (
    ClipCounts,
    ErrorCounts,
    append_hypothesis,
    bootstrap_interval,
    cer,
    compare,
    count_errors,
    paired_difference,
    read_hypotheses,
    resume_hypotheses,
    score,
    wer,
    write_hypotheses,
)
from omni_avsr.types import Hypothesis, Task


def hypothesis(id_: str, reference: str, text: str, task: str = "asr", rates: str = "4", **more) -> Hypothesis:
    return Hypothesis(id_, Task(task), rates, reference, text, **more)


def clip(id_: str, errors: int, length: int, speaker: str | None = None) -> ClipCounts:
    counts = ErrorCounts(errors, 0, 0, length)
    return ClipCounts(id_, speaker, counts, counts)


def test_edits_of_each_kind_are_counted_per_clip() -> None:
    clips = count_errors(
        [
            hypothesis("sub", "bin blue at f two now", "bin BLUE at s two now"),
            hypothesis("del", "bin blue at f two now", "bin at f now"),
            hypothesis("ins", "lay red", "lay the red now please"),
            hypothesis("same", "Lay red.", "lay red"),
            hypothesis("none", "lay red", ""),
        ]
    )
    assert [c.words for c in clips] == [
        ErrorCounts(1, 0, 0, 6),
        ErrorCounts(0, 2, 0, 6),
        ErrorCounts(0, 0, 3, 2),
        ErrorCounts(0, 0, 0, 2),
        ErrorCounts(0, 2, 0, 2),
    ]
    assert clips[0].characters == ErrorCounts(1, 0, 0, len("bin blue at f two now"))
    assert clips[4].characters == ErrorCounts(0, 7, 0, 7)


def test_corpus_rate_sums_errors_over_summed_lengths() -> None:
    clips = count_errors([hypothesis("a", "one", "two"), hypothesis("b", "a b c d e f g h i", "a b c d e f g h i")])
    assert wer(clips) == pytest.approx(1 / 10)  # a mean of the clips' rates would be 1/2
    assert cer(clips) == pytest.approx(3 / 20)  # o-n-e to t-w-o


def test_insertions_into_an_empty_reference_count() -> None:
    clips = count_errors([hypothesis("silence", "", "a b"), hypothesis("speech", "c d", "c d")])
    assert clips[0].words == ErrorCounts(0, 0, 2, 0)
    assert wer(clips) == 1.0
    assert bootstrap_interval(clips, seed=0).low == 0.0


def test_corpus_without_reference_words_is_an_error() -> None:
    with pytest.raises(ValueError, match="all 2 references are empty"):
        wer(count_errors([hypothesis("a", "", "x"), hypothesis("b", "{NS}", "")]))


def test_clip_with_two_hypotheses_is_an_error() -> None:
    with pytest.raises(ValueError, match="such as a"):
        count_errors([hypothesis("a", "x", "x"), hypothesis("a", "x", "y")])


def test_intervals_cover_the_true_rate_about_as_often_as_they_say() -> None:
    generator = np.random.default_rng(0)
    true_rate, covered = 0.2, 0
    for repeat in range(200):
        errors = generator.binomial(10, generator.beta(2, 8, size=80))
        interval = bootstrap_interval(
            [clip(str(i), e, 10) for i, e in enumerate(errors)], seed=repeat, num_resamples=500
        )
        covered += interval.low <= true_rate <= interval.high
    assert 0.89 <= covered / 200 <= 0.99


def test_interval_depends_on_the_seed_alone_and_widens_with_its_level() -> None:
    clips = [clip(str(i), i % 4, 5 + i % 7) for i in range(30)]
    assert bootstrap_interval(clips, seed=1) == bootstrap_interval(clips, seed=1)
    assert bootstrap_interval(clips, seed=1) != bootstrap_interval(clips, seed=2)
    narrow, wide = bootstrap_interval(clips, seed=1, level=0.5), bootstrap_interval(clips, seed=1, level=0.99)
    assert wide.low < narrow.low < wer(clips) < narrow.high < wide.high


def test_resampling_speakers_widens_the_interval_when_their_clips_are_alike() -> None:
    clips = [clip(f"{speaker}-{i}", speaker, 10, str(speaker)) for speaker in range(6) for i in range(20)]
    by_clip = bootstrap_interval(clips, seed=0)
    by_speaker = bootstrap_interval(clips, seed=0, groups=[c.speaker or "" for c in clips])
    assert by_speaker.high - by_speaker.low > 3 * (by_clip.high - by_clip.low)
    # Twenty identical clips of a speaker tell as much as one.
    singles = bootstrap_interval([clip(str(s), s, 10) for s in range(6)], seed=0)
    assert (by_speaker.low, by_speaker.high) == pytest.approx((singles.low, singles.high))
    with pytest.raises(ValueError, match="two or more"):
        bootstrap_interval(clips, seed=0, groups=["s1"] * len(clips))


def test_paired_difference_of_the_same_input_is_zero_whatever_its_order() -> None:
    clips = [clip(str(i), i % 3, 6) for i in range(40)]
    difference = paired_difference(clips, clips[::-1], seed=0)
    assert (difference.value, difference.interval.low, difference.interval.high) == (0, 0, 0)
    assert difference.num_clips == 40


def test_paired_difference_is_a_minus_b_and_sees_what_separate_intervals_miss() -> None:
    generator = np.random.default_rng(0)
    errors = generator.integers(1, 9, size=60)
    better = [clip(str(i), e - generator.integers(2), 10) for i, e in enumerate(errors)]
    worse = [clip(str(i), e, 10) for i, e in enumerate(errors)]
    difference = paired_difference(better, worse, seed=0)
    assert difference.value == pytest.approx(wer(better) - wer(worse))
    assert difference.interval.high < 0
    assert bootstrap_interval(better, seed=0).high > bootstrap_interval(worse, seed=0).low


def test_unmatched_clips_are_named() -> None:
    with pytest.raises(ValueError, match="2 without a partner: b, c"):
        paired_difference([clip("a", 0, 1), clip("b", 0, 1)], [clip("a", 0, 1), clip("c", 0, 1)], seed=0)
    with pytest.raises(ValueError, match="other lengths, such as a"):
        paired_difference([clip("a", 0, 1)], [clip("a", 0, 2)], seed=0)


def test_scores_are_grouped_and_in_the_order_of_the_columns() -> None:
    settings = [("avsr", "16,2"), ("vsr", "2"), ("asr", "16"), ("avsr", "4,5"), ("asr", "4")]
    hypotheses = [hypothesis(i, "a b c d", "a b c x", *setting) for setting in settings for i in "pq"]
    hypotheses += [hypothesis("p", "a b", "x y", snr_db=snr) for snr in (-5.0, 5.0, 0.0)]
    hypotheses += [hypothesis("p", "a b", "x b", condition="swapped")]
    scores = score(hypotheses, seed=0, num_resamples=50)
    assert [(s.setting.task, s.setting.rates, s.setting.snr_db, s.setting.condition) for s in scores] == [
        ("asr", "4", None, "matched"),
        ("asr", "16", None, "matched"),
        ("vsr", "2", None, "matched"),
        ("avsr", "4,5", None, "matched"),
        ("avsr", "16,2", None, "matched"),
        ("asr", "4", 5.0, "matched"),
        ("asr", "4", 0.0, "matched"),
        ("asr", "4", -5.0, "matched"),
        ("asr", "4", None, "swapped"),
    ]
    assert (scores[0].wer, scores[0].num_clips, scores[0].num_words) == (0.25, 2, 8)
    assert scores[0].cer == pytest.approx(1 / 7)
    assert scores[5].wer == 1.0


def test_scores_by_speaker_need_speakers() -> None:
    hypotheses = [hypothesis(str(i), "a b", "a b", speaker=str(i % 2)) for i in range(4)]
    assert score(hypotheses, seed=0, by_speaker=True)[0].wer == 0
    with pytest.raises(ValueError, match="1 clips have no speaker"):
        score([*hypotheses, hypothesis("x", "a", "a")], seed=0, by_speaker=True)


def test_tasks_are_compared_at_their_shared_rate_and_vsr_stands_in_under_noise() -> None:
    def rows(text: str, task: str, rates: str, **more) -> list[Hypothesis]:
        return [hypothesis(str(i), "a b c d", text, task, rates, **more) for i in range(3)]

    hypotheses = rows("a b c x", "asr", "4") + rows("a b c d", "asr", "16") + rows("a b x x", "vsr", "5")
    hypotheses += rows("a b c d", "avsr", "4,5") + rows("x x x x", "asr", "4", snr_db=0.0)
    hypotheses += rows("a b c x", "avsr", "4,5", snr_db=0.0)
    hypotheses += rows("x x x x", "avsr", "4,5", snr_db=0.0, condition="swapped")
    found = {
        (c.a.snr_db, c.a.condition, c.b.task, c.b.rates, c.b.snr_db): c.difference.value
        for c in compare(hypotheses, seed=0, num_resamples=20)
    }
    assert found == {
        (None, "matched", "asr", "4", None): -0.25,
        (None, "matched", "vsr", "5", None): -0.5,
        (0.0, "matched", "asr", "4", 0.0): -0.75,
        (0.0, "matched", "vsr", "5", None): -0.25,
        (0.0, "swapped", "avsr", "4,5", 0.0): 0.75,
    }


HYPOTHESES = [
    hypothesis("a", 'caf\u00e9 \u2028 "x"', "cafe\n", split="test", speaker="s1", snr_db=-5.0, condition="swapped"),
    hypothesis("b", "", "", task="avsr", rates="4,2"),
]


def test_hypotheses_survive_the_file(tmp_path: Path) -> None:
    path = tmp_path / "out" / "hypotheses.jsonl"
    write_hypotheses(path, HYPOTHESES)
    assert read_hypotheses(path) == HYPOTHESES
    assert len(path.read_bytes().split(b"\n")) == 3
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("{}", "id: Field required"),
        ('{"id": "a", "task": "tts", "rates": "4", "reference": "", "text": ""}', "task: Input should be"),
        ('{"id": "a", "task": "asr", "rates": 4, "reference": "", "text": ""}', "rates: Input should be"),
        ('{"id": "a", "task": "asr", "rates": "4", "reference": "", "text": "", "wer": 1}', "wer: Unexpected"),
        ('{"id": "a",', "Invalid JSON"),
    ],
)
def test_bad_line_is_named_by_file_and_number(tmp_path: Path, line: str, problem: str) -> None:
    path = tmp_path / "hypotheses.jsonl"
    write_hypotheses(path, HYPOTHESES)
    path.write_bytes(path.read_bytes() + line.encode() + b"\n")
    for drop_torn_line in (False, True):  # a whole line is never taken for a torn one
        with pytest.raises(ValueError, match=rf"hypotheses\.jsonl:3: not a hypothesis: {problem}"):
            read_hypotheses(path, drop_torn_line=drop_torn_line)


def test_torn_last_line_is_dropped_and_appending_goes_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "hypotheses.jsonl"
    write_hypotheses(path, [HYPOTHESES[1], HYPOTHESES[0]])
    whole = path.read_bytes()
    second_line = whole.index(b"\n") + 1
    inside_a_character = whole.index("\u00e9".encode()) + 1
    for end in (second_line + 1, inside_a_character, len(whole) - 2):
        path.write_bytes(whole[:end])
        with pytest.raises(ValueError, match=r"hypotheses\.jsonl:2"):
            read_hypotheses(path)
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            assert resume_hypotheses(path) == [HYPOTHESES[1]]
        assert "hypotheses.jsonl:2" in caplog.text
        with path.open("ab") as file:
            append_hypothesis(file, HYPOTHESES[0])
        assert path.read_bytes() == whole


def test_last_line_that_lacks_only_its_end_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "hypotheses.jsonl"
    write_hypotheses(path, HYPOTHESES)
    path.write_bytes(path.read_bytes()[:-1])
    assert resume_hypotheses(path) == HYPOTHESES
    with path.open("ab") as file:
        append_hypothesis(file, replace(HYPOTHESES[0], id="c"))
    assert [h.id for h in read_hypotheses(path)] == ["a", "b", "c"]


def test_wrong_last_line_is_not_taken_for_a_torn_one(tmp_path: Path) -> None:
    path = tmp_path / "hypotheses.jsonl"
    path.write_text('{"id": "a", "task": "tts", "rates": "4", "reference": "", "text": ""}')
    with pytest.raises(ValueError, match=r"hypotheses\.jsonl:1: not a hypothesis: task"):
        resume_hypotheses(path)


def test_nothing_to_resume_without_a_file(tmp_path: Path) -> None:
    assert resume_hypotheses(tmp_path / "none.jsonl") == []


def test_appended_line_is_on_disk_before_the_file_is_closed(tmp_path: Path) -> None:
    path = tmp_path / "hypotheses.jsonl"
    with path.open("ab") as file:
        for number, one in enumerate(HYPOTHESES, start=1):
            append_hypothesis(file, one)
            assert read_hypotheses(path) == HYPOTHESES[:number]
