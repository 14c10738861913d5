"""From phonemes to the movement of a mouth."""

from dataclasses import fields

import numpy as np
import pytest

from data_prep.synthetic.corpus import ACCENTS, HELD_OUT_VARIANTS, VARIANTS
from data_prep.synthetic.grammar import SLOTS
from data_prep.synthetic.visemes import NUM_MEASURES, Mouth, mouth_track
from data_prep.synthetic.voice import Phoneme, Voice, say

OPENING, WIDE, ROUNDED, TUCKED, TEETH, TONGUE = range(NUM_MEASURES)


def track(*symbols: str, seconds: float = 0.12) -> np.ndarray:
    """The mouth in the middle of each phoneme."""
    phonemes = [Phoneme(symbol, place * seconds, (place + 1) * seconds) for place, symbol in enumerate(symbols)]
    return mouth_track(phonemes, (np.arange(len(symbols)) + 0.5) * seconds)


def test_measures_are_those_of_a_mouth() -> None:
    names = [field.name for field in fields(Mouth)]
    assert names == ["opening", "wide", "rounded", "tucked", "teeth", "tongue"]


def test_lips_close_for_p_between_open_vowels_and_only_then() -> None:
    closed, open_ = track("A:", "p", "A:")[1], track("A:", "k", "A:")[1]
    assert closed[OPENING] < 0.2
    assert open_[OPENING] > 0.4


def test_shapes_are_what_their_sounds_need() -> None:
    assert track("f")[0, TUCKED] > 0.5 > track("p")[0, TUCKED]
    assert track("T")[0, TONGUE] > 0.6 > track("s")[0, TONGUE]
    assert track("u:")[0, WIDE] < -0.5
    assert track("i:")[0, WIDE] > 0.5
    assert track("aI", seconds=0.3)[0, OPENING] > track("i:")[0, OPENING]


def test_neighbours_colour_a_sound() -> None:
    """The s of "soon" is already rounded, that of "seen" is not (coarticulation)."""
    assert track("s", "u:")[0, ROUNDED] > track("s", "i:")[0, ROUNDED] + 0.1
    assert track("u:", "s")[1, ROUNDED] > track("i:", "s")[1, ROUNDED] + 0.1


def test_the_mouth_is_at_rest_long_before_and_after_speech() -> None:
    phonemes = [Phoneme("A:", 0.5, 0.7)]
    for measures in mouth_track(phonemes, np.array([-50.0, 0.0, 1.3, 60.0])):
        assert measures[OPENING] < 0.1
    assert mouth_track([], np.array([0.0, 1.0])).shape == (2, NUM_MEASURES)


def test_the_mouth_moves_smoothly() -> None:
    speech = say(("throw", "yellow", "window", "behind", "george"), Voice("en-us+f3"))
    moves = np.abs(np.diff(mouth_track(speech.phonemes, np.arange(0, 1.8, 0.01)), axis=0))
    assert moves.max() < 0.45


def test_every_word_has_shapes_in_every_voice() -> None:
    words = [word for slot in SLOTS for word in slot]
    for accent in ACCENTS:
        for start in range(0, len(words), 6):
            speech = say(words[start : start + 6], Voice(f"{accent}+f2"))
            assert len(mouth_track(speech.phonemes, np.array([0.0]))) == 1
    for variant in (*VARIANTS, *HELD_OUT_VARIANTS):
        say(("fish",), Voice(f"en-us+{variant}"))


def test_an_unknown_phoneme_is_named() -> None:
    with pytest.raises(ValueError, match="phoneme 'q~'"):
        track("q~")
