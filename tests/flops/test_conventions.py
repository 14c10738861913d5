"""What the ledger counts: 2, 4 or 6 FLOPs a weight by what is trained where, convolutions by their output."""

import pytest
import torch
from torch import nn

from omni_avsr.config import AVHubertConfig
from omni_avsr.encoders.avhubert import AVHubertEncoder
from omni_avsr.encoders.build import SpeechEncoder
from omni_avsr.features import VIDEO_FPS
from omni_avsr.flops.encoders import encoder_cost
from omni_avsr.flops.tape import Flops, Tape


def layers(*trained: bool) -> list[nn.Linear]:
    made = [nn.Linear(8, 8, bias=False) for _ in trained]
    for layer, flag in zip(made, trained, strict=True):
        layer.requires_grad_(flag)
    return made


@pytest.mark.parametrize(
    ("trained", "factors"),
    [
        ((False, True, False), (2, 4, 4)),  # nothing below the first trained layer needs the gradient of its input
        ((True, True, False), (4, 6, 4)),
        ((False, False, False), (2, 2, 2)),
    ],
)
def test_the_factors_of_a_chain(trained: tuple[bool, ...], factors: tuple[int, ...]) -> None:
    found, gradient = [], False
    for layer in layers(*trained):
        tape = Tape()
        gradient = tape.matrix("llm", "steps", layer, gradient)
        found.append(tape.flops({"steps": 10}).total / (64 * 10))
    assert tuple(found) == factors


def test_attention_costs_four_times_its_width_for_every_pair_and_twice_that_backward() -> None:
    tape = Tape()
    assert tape.attention("llm", "pairs", 8, True, True, True)
    flops = tape.flops({"pairs": 10**2})
    assert flops == Flops({"llm": 4 * 8 * 100}, {"llm": 8 * 8 * 100})
    # Without a gradient for the keys, one of the four products is left out.
    assert not Tape().attention("llm", "pairs", 8, False, False, False)
    partly = Tape()
    partly.attention("llm", "pairs", 8, True, False, True)
    assert partly.flops({"pairs": 1}).backward["llm"] == 6 * 8


def test_a_resnet_costs_far_more_than_its_parameters_tell() -> None:
    with torch.device("meta"):
        encoder = AVHubertEncoder(AVHubertConfig()).requires_grad_(False).eval()
    cost = encoder_cost(SpeechEncoder(encoder, has_ctc=False))
    frames = torch.tensor([VIDEO_FPS])
    found = cost.tape.flops(cost.sizes(frames)).forward["video_front_end"]
    by_parameters = 2 * VIDEO_FPS * sum(value.numel() for value in encoder.resnet.parameters())
    assert 25 < found / by_parameters < 29


def test_flops_add_up_by_part_and_survive_a_sum_over_processes() -> None:
    one, other = Flops({"llm": 1.0, "heads": 2.0}, {"llm": 3.0}), Flops({"llm": 1e15}, {"logits": 5.0})
    both = one + other
    assert both == Flops({"llm": 1e15 + 1, "heads": 2.0}, {"llm": 3.0, "logits": 5.0})
    assert both.parts == {"llm": 1e15 + 4, "heads": 2.0, "logits": 5.0}
    assert both.total == sum(both.parts.values())
    assert Flops.from_table(one.table() + other.table()) == both
