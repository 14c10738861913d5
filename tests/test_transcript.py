"""Transcripts as text, JSON and subtitles."""

import json
from dataclasses import replace

import pytest

from omni_avsr.transcript import MAX_CUE_CHARACTERS, MAX_CUE_SECONDS, Transcript, cues, formatted
from omni_avsr.types import Modality, Rates, Task, Word

WORDS = (Word("bin", 0.1, 0.4), Word("blue", 0.45, 0.9), Word("now", 3700.5, 3701.0))
TRANSCRIPT = Transcript(
    "a.mp4", Task.AVSR, Rates(4, 2), "bin blue now", WORDS, 3702.0, {Modality.AUDIO: 7}, ("a note",)
)


def test_text_is_a_line() -> None:
    assert formatted(TRANSCRIPT, "text") == "bin blue now\n"


def test_json_holds_everything_on_one_line() -> None:
    text = formatted(replace(TRANSCRIPT, text="naïve"), "json")
    assert text.count("\n") == 1
    assert "naïve" in text
    record = json.loads(text)
    assert record["file"] == "a.mp4"
    assert (record["task"], record["rates"], record["seconds"]) == ("avsr", "4,2", 3702.0)
    assert record["words"][0] == {"text": "bin", "start": 0.1, "end": 0.4}
    assert (record["num_tokens"], record["notes"]) == ({"audio": 7}, ["a note"])


def test_srt_and_vtt_differ_in_numbers_head_and_decimal_point() -> None:
    assert formatted(TRANSCRIPT, "srt") == (
        "1\n00:00:00,100 --> 00:00:00,900\nbin blue\n\n2\n01:01:40,500 --> 01:01:41,000\nnow\n"
    )
    assert formatted(TRANSCRIPT, "vtt") == (
        "WEBVTT\n\n00:00:00.100 --> 00:00:00.900\nbin blue\n\n01:01:40.500 --> 01:01:41.000\nnow\n"
    )


def test_cues_hold_all_words_and_fit_a_line() -> None:
    words = [Word("word" * (1 + number % 3), 0.5 * number, 0.5 * number + 0.4) for number in range(60)]
    groups = cues(words)
    assert [word for group in groups for word in group] == words
    for group in groups:
        assert len(" ".join(word.text for word in group)) <= MAX_CUE_CHARACTERS
        assert group[-1].end - group[0].start <= MAX_CUE_SECONDS
    assert max(map(len, groups)) > 2
    long = Word("a" * 100, 0, 60)
    assert cues([long]) == [[long]]


def test_without_word_times_there_are_no_subtitles_but_of_silence() -> None:
    with pytest.raises(ValueError, match=r"a\.mp4: subtitles need word times"):
        formatted(replace(TRANSCRIPT, words=()), "srt")
    assert formatted(replace(TRANSCRIPT, words=(), text=""), "srt") == ""
