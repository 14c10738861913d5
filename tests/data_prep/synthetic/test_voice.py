"""Speech of eSpeak NG: reproducible, with times of words and phonemes that fit the samples."""

from itertools import pairwise

import numpy as np
import pytest

from data_prep.synthetic.voice import Voice, say
from omni_avsr.media import SAMPLE_RATE

WORDS = ("throw", "yellow", "window", "behind", "george")


def test_words_and_phonemes_follow_each_other_within_the_samples() -> None:
    speech = say(WORDS, Voice("en-us+f3"))
    seconds = len(speech.samples) / SAMPLE_RATE
    assert 1.0 < seconds < 3.0
    assert speech.samples.dtype == np.float32
    assert 0.1 < np.abs(speech.samples).max() <= 1.0
    assert [word.text for word in speech.words] == list(WORDS)
    for parts in (speech.words, speech.phonemes):
        assert all(part.end > part.start for part in parts)
        assert all(before.end <= after.start + 1e-6 for before, after in pairwise(parts))
        assert parts[0].start >= 0
        assert parts[-1].end <= seconds + 1e-3


def test_phonemes_stand_inside_their_words() -> None:
    speech = say(WORDS, Voice("en-us+m4", rate=140))
    throw, *_, george = speech.words
    first = [phoneme.symbol for phoneme in speech.phonemes if phoneme.start < throw.end]
    assert first == ["T", "r", "oU"]
    inside = [p.symbol for p in speech.phonemes if george.start <= p.start and p.end <= george.end + 1e-3]
    assert inside[0] == inside[-1] == "dZ"


def test_equal_settings_give_equal_samples_whatever_was_said_before() -> None:
    voice = Voice("en-us+f2", 150, 60, 40)
    first = say(WORDS, voice).samples
    others = [Voice("en-gb-x-rp+f2", 150, 60, 40), Voice("en-us+f2", 170, 60, 40), Voice("en-us+f2", 150, 30, 40)]
    for other in others:
        samples = say(WORDS, other).samples
        assert samples.shape != first.shape or not np.array_equal(samples, first)
    assert np.array_equal(say(WORDS, voice).samples, first)


def test_speech_stands_where_the_times_say() -> None:
    speech = say(("fish",), Voice("en-us+m1"))
    [(end, start)] = [(p.end, p.start) for p in speech.phonemes if p.symbol == "S"]
    hiss = speech.samples[int(start * SAMPLE_RATE) : int(end * SAMPLE_RATE)]
    [(end, start)] = [(p.end, p.start) for p in speech.phonemes if p.symbol == "I"]
    vowel = speech.samples[int(start * SAMPLE_RATE) : int(end * SAMPLE_RATE)]

    def high(samples: np.ndarray) -> float:
        power = np.abs(np.fft.rfft(samples)) ** 2
        return float(power[len(power) // 4 :].sum() / power.sum())  # above 2 kHz

    assert high(hiss) > 0.6 > 0.4 > high(vowel)


def test_an_unknown_voice_is_named() -> None:
    with pytest.raises(ValueError, match=r"no voice 'en-mars\+f9'"):
        say(WORDS, Voice("en-mars+f9"))
