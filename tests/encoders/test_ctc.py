"""The CTC head: characters, the best path, and the loss against hand and torch."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from omni_avsr.encoders.ctc import ALPHABET, BLANK, CTCHead, decode_ids, encode_text
from omni_avsr.types import Features

DIM = 8


@pytest.fixture
def head() -> CTCHead:
    torch.manual_seed(0)
    return CTCHead(DIM)


def features(*lengths: int) -> Features:
    generator = torch.Generator().manual_seed(1)
    return Features.pad([torch.randn(length, DIM, generator=generator) for length in lengths])


def path(text: str) -> list[int]:
    """Ids of a frame-by-frame path in which ``_`` is blank."""
    return [BLANK if character == "_" else encode_text(character)[0] for character in text]


@pytest.mark.parametrize("text", ["bin blue at f two now", "it's 42", "aa bb", ALPHABET.strip()])
def test_characters_come_back(text: str) -> None:
    ids = encode_text(text)
    assert len(ids) == len(text)
    assert min(ids) > BLANK
    assert max(ids) <= len(ALPHABET)
    apart = [value for index in ids for value in (index, BLANK)]
    assert decode_ids(apart) == text


def test_characters_outside_the_alphabet_are_left_out() -> None:
    assert encode_text("a-b!é") == encode_text("ab")


@pytest.mark.parametrize(
    ("frames", "text"),
    [
        ("aabbb", "ab"),
        ("a_a", "aa"),
        ("a__aa_b", "aab"),
        ("____", ""),
        ("", ""),
        ("__hh_e_lll_l_o", "hello"),
        (" a  b ", "a b"),
        ("a _ b", "a  b"),
    ],
)
def test_repeats_and_blanks_collapse(frames: str, text: str) -> None:
    assert decode_ids(path(frames)) == text


def test_log_probabilities_are_normalised_over_blank_and_characters(head: CTCHead) -> None:
    output = head(features(4, 2))
    assert output.values.shape == (2, 4, len(ALPHABET) + 1)
    torch.testing.assert_close(output.values.exp().sum(-1), torch.ones(2, 4))
    assert output.lengths.tolist() == [4, 2]


def test_loss_of_a_hand_case(head: CTCHead) -> None:
    """Two frames, the text ``a``: the paths aa, a_ and _a."""
    inputs = features(2)
    a = encode_text("a")[0]
    first, second = head(inputs).values[0].exp()
    probability = first[a] * second[a] + first[a] * second[BLANK] + first[BLANK] * second[a]
    torch.testing.assert_close(head.loss(inputs, ["a"])[0], -probability.log())


def test_loss_equals_torchs(head: CTCHead) -> None:
    texts = ["bin blue", "aab"]
    inputs = features(20, 12)
    log_probs = F.log_softmax(head.linear(inputs.values), -1).transpose(0, 1)
    for row, text in enumerate(texts):
        target = torch.tensor([encode_text(text)])
        length = inputs.lengths[row : row + 1]
        expected = F.ctc_loss(log_probs[:, row : row + 1], target, length, torch.tensor([len(text)]), reduction="none")
        torch.testing.assert_close(head.loss(inputs, texts)[row], expected[0])


def test_loss_of_a_batch_equals_singles_whatever_the_padding(head: CTCHead) -> None:
    texts, inputs = ["bin blue", "", "aab"], features(20, 5, 12)
    dirty = Features(inputs.values.masked_fill(~inputs.mask()[..., None], 1e4), inputs.lengths)
    together = head.loss(dirty, texts)
    assert together.shape == (3,)
    for row, text in enumerate(texts):
        alone = Features(inputs.values[row : row + 1, : inputs.lengths[row]], inputs.lengths[row : row + 1])
        torch.testing.assert_close(together[row], head.loss(alone, [text])[0])


def test_an_empty_text_costs_its_blanks(head: CTCHead) -> None:
    inputs = features(3)
    torch.testing.assert_close(head.loss(inputs, [""])[0], -head(inputs).values[0, :, BLANK].sum())


@pytest.mark.parametrize("text", ["abcd", "aab"], ids=["more characters", "a repeat needs a blank"])
def test_a_clip_too_short_for_its_text_counts_zero_and_gives_no_gradient(text: str, head: CTCHead) -> None:
    inputs = features(3, 3)
    losses = head.loss(inputs, [text, "ab"])
    assert losses[0] == 0
    assert losses[1] > 0
    losses[0].backward()
    assert head.linear.weight.grad is not None
    assert not head.linear.weight.grad.any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_loss_is_float32_under_mixed_precision(dtype: torch.dtype, head: CTCHead) -> None:
    inputs = features(20, 12)
    exact = head.loss(inputs, ["bin blue", "aab"])
    with torch.autocast("cpu", dtype):
        output, losses = head(inputs), head.loss(inputs, ["bin blue", "aab"])
    assert output.values.dtype is losses.dtype is torch.float32
    # a half-precision softmax would be off by its own rounding in every frame
    torch.testing.assert_close(output.values.exp().sum(-1), torch.ones(2, 20), atol=1e-5, rtol=0)
    torch.testing.assert_close(losses, exact, atol=0.1, rtol=0.01)
    losses.sum().backward()
    assert torch.isfinite(head.linear.weight.grad).all()


def test_transcripts_are_the_best_path_of_the_real_frames(head: CTCHead) -> None:
    def scores(frames: str) -> Tensor:
        return F.one_hot(torch.tensor(path(frames)), len(ALPHABET) + 1).float()

    wide = CTCHead(len(ALPHABET) + 1)
    torch.nn.init.eye_(wide.linear.weight)
    torch.nn.init.zeros_(wide.linear.bias)
    inputs = Features.pad([scores("hh_i_"), scores("n_o")])
    inputs.values[1, 3:] = scores("zz")
    assert wide.transcribe(inputs) == ["hi", "no"]


def test_a_head_learns_a_text(head: CTCHead) -> None:
    inputs = features(12)
    optimizer = torch.optim.Adam(head.parameters(), 0.3)
    for _ in range(60):
        optimizer.zero_grad()
        head.loss(inputs, ["two now"]).sum().backward()
        optimizer.step()
    assert head.transcribe(inputs) == ["two now"]
