"""Hand-computed error counts and the rates of a corpus."""

import pytest

from omni_avsr.error_counts import ErrorCounts, cer, count_errors, wer
from omni_avsr.types import Hypothesis, Task


def hypothesis(id_: str, reference: str, text: str) -> Hypothesis:
    return Hypothesis(id_, Task.ASR, "4", reference, text)


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


def test_corpus_without_reference_words_is_an_error() -> None:
    with pytest.raises(ValueError, match="all 2 references are empty"):
        wer(count_errors([hypothesis("a", "", "x"), hypothesis("b", "{NS}", "")]))


def test_clip_with_two_hypotheses_is_an_error() -> None:
    with pytest.raises(ValueError, match="such as a"):
        count_errors([hypothesis("a", "x", "x"), hypothesis("a", "x", "y")])
