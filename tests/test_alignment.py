"""CTC alignment against all paths, and the words that it makes of characters."""

from itertools import product

import pytest
import torch
from torch import Tensor

from omni_avsr.encoders.ctc import ALPHABET, BLANK, decode_ids, encode_text
from omni_avsr.objectives.alignment import best_alignment, spoken_words
from omni_avsr.types import Word


def random_log_probs(num_frames: int, num_classes: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (3 * torch.randn(num_frames, num_classes, generator=generator)).log_softmax(-1)


def collapsed(path: tuple[int, ...]) -> list[int]:
    return [label for place, label in enumerate(path) if label and (place == 0 or label != path[place - 1])]


@pytest.mark.parametrize("labels", [[1], [1, 2], [2, 2], [1, 2, 1], [1, 1, 2]])
@pytest.mark.parametrize("seed", range(4))
def test_the_likeliest_of_all_paths_is_found(labels: list[int], seed: int) -> None:
    log_probs = random_log_probs(6, 3, seed)
    paths = [path for path in product(range(3), repeat=6) if collapsed(path) == labels]
    best = max(paths, key=lambda path: sum(float(log_probs[t, label]) for t, label in enumerate(path)))
    found = best_alignment(log_probs, labels)
    assert found is not None
    said = [label for first, last in found for label in best[first : last + 1]]
    assert BLANK not in said
    runs = [frame for first, last in found for frame in range(first, last + 1)]
    assert runs == [frame for frame, label in enumerate(best) if label != BLANK]
    assert [best[first] for first, _ in found] == labels


def test_clips_that_are_too_short_have_no_alignment() -> None:
    log_probs = random_log_probs(3, 3, 0)
    assert best_alignment(log_probs, [1, 2, 1]) == [(0, 0), (1, 1), (2, 2)]
    assert best_alignment(log_probs, [1, 1, 2]) is None  # a blank has to stand between equal ones
    assert best_alignment(log_probs, []) is None
    assert spoken_words(log_probs, "", 25.0) == ()


def test_a_word_reaches_to_the_middle_of_the_pause_behind_it() -> None:
    frames = "__ss_e__t_ __bbi__nn___"
    ids = [BLANK if character == "_" else encode_text(character)[0] for character in frames]
    assert decode_ids(ids) == "set bin"
    log_probs = torch.full((len(ids), len(ALPHABET) + 1), -20.0)
    log_probs[torch.arange(len(ids)), torch.tensor(ids)] = 0.0
    edge = (frames.index("t") + frames.index("b") + 1) / 2
    assert spoken_words(log_probs, "set bin", 10.0) == (
        Word("set", 0.1, edge / 10),
        Word("bin", edge / 10, 2.1),
    )
