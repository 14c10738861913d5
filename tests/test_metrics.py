"""Scores by setting in the order of the columns, and the pairs that are compared."""

import pytest

from omni_avsr.metrics import compare, score
from omni_avsr.types import Hypothesis, Task


def hypothesis(id_: str, reference: str, text: str, task: str = "asr", rates: str = "4", **more) -> Hypothesis:
    return Hypothesis(id_, Task(task), rates, reference, text, **more)


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
