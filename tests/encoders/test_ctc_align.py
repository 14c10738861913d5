"""Word times by CTC: the Viterbi path against all paths by hand, and words that the head cannot spell."""

from itertools import product

import numpy as np
import pytest

from omni_avsr.encoders.ctc import ALPHABET, BLANK, encode_text
from omni_avsr.encoders.ctc_align import align_words, best_path
from omni_avsr.types import Word

NUM_CLASSES = len(ALPHABET) + 1


def log_probs(text: str, sharpness: float = 8.0) -> np.ndarray:
    """One frame for each character of ``text``; ``_`` is blank."""
    ids = [BLANK if character == "_" else encode_text(character)[0] for character in text]
    logits = np.zeros((len(ids), NUM_CLASSES))
    logits[np.arange(len(ids)), ids] = sharpness
    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


def collapsed(path: tuple[int, ...]) -> list[int]:
    return [s for i, s in enumerate(path) if s != BLANK and (i == 0 or path[i - 1] != s)]


@pytest.mark.parametrize("labels", [[1], [1, 2], [2, 2], [1, 2, 1], [2, 2, 1]])
def test_the_path_is_the_best_of_all(labels: list[int]) -> None:
    for seed in range(10):
        scores = np.random.default_rng(seed).normal(size=(5, 3))
        scores -= np.log(np.exp(scores).sum(axis=1, keepdims=True))
        allowed = [path for path in product(range(3), repeat=5) if collapsed(path) == labels]
        best = max(allowed, key=lambda path: sum(scores[frame, state] for frame, state in enumerate(path)))
        found = best_path(scores, labels)
        assert tuple(BLANK if place < 0 else labels[place] for place in found) == best


def test_too_few_frames_have_no_path() -> None:
    scores = np.log(np.full((3, 3), 1 / 3))
    assert best_path(scores, [1, 1]) == [0, -1, 1]
    assert best_path(scores, [1, 1, 2]) == []
    assert best_path(scores, []) == []
    assert best_path(scores[:0], [1]) == []


def test_words_last_from_their_first_to_their_last_character() -> None:
    words = align_words(log_probs("__bbi_n__ _re_d__"), ["bin", "red"], 10.0)
    assert words == (Word("bin", 0.2, 0.7), Word("red", 1.1, 1.5))


def test_words_are_shown_as_they_were_written() -> None:
    words = align_words(log_probs("its_ _ok"), ["Its,", "OK!"], 1.0)
    assert words == (Word("Its,", 0, 3), Word("OK!", 6, 8))


def test_a_word_without_known_characters_takes_the_time_between_its_neighbours() -> None:
    words = align_words(log_probs("bin____ red"), ["bin", "…", "—", "red"], 1.0)
    assert words == (Word("bin", 0, 3), Word("…", 3, 5.5), Word("—", 5.5, 8), Word("red", 8, 11))


def test_without_a_path_words_share_the_time() -> None:
    assert align_words(log_probs("abcd"), ["long", "words"], 2.0) == (Word("long", 0, 1), Word("words", 1, 2))
    assert align_words(log_probs("ab"), [], 2.0) == ()


def test_a_stray_character_does_not_stretch_its_word() -> None:
    """An encoder that sees the whole clip may write the first character of a sentence in its first frame."""
    words = align_words(log_probs("b_________iin_ _red"), ["bin", "red"], 10.0)
    assert words == (Word("bin", 1.0, 1.3), Word("red", 1.6, 1.9))
    assert align_words(log_probs("bi_____n"), ["bin"], 10.0) == (Word("bin", 0.0, 0.2),)
    assert align_words(log_probs("a_________o"), ["ao"], 10.0) == (Word("ao", 1.0, 1.1),)
