"""Compression against hand calculation, its independence of padding, and the draw of rates."""

from collections import Counter

import pytest
import torch
from torch import Tensor

from omni_avsr.compression import all_rates, compress, draw_rates
from omni_avsr.config import CompressionConfig
from omni_avsr.types import Features, Modality, Rates, Task

AVERAGE, STACK = CompressionConfig(), CompressionConfig(mode="stack")
AVERAGE_DROP, STACK_DROP = CompressionConfig(tail="drop"), CompressionConfig(mode="stack", tail="drop")
EVERY_KIND = [AVERAGE, STACK, AVERAGE_DROP, STACK_DROP]


def column(*numbers: float) -> Tensor:
    """[T, 1]."""
    return torch.tensor(numbers, dtype=torch.float32)[:, None]


def ramp(frames: int, dim: int = 3, seed: int = 0) -> Tensor:
    return torch.randn(frames, dim, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (AVERAGE, [[2.0], [5.0], [7.5]]),
        (AVERAGE_DROP, [[2.0], [5.0]]),
        (STACK, [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [7.0, 8.0, 0.0]]),
        (STACK_DROP, [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]),
    ],
    ids=["average", "average drop", "stack", "stack drop"],
)
def test_values_with_a_remainder(config: CompressionConfig, expected: list[list[float]]) -> None:
    result = compress(Features.pad([column(1, 2, 3, 4, 5, 6, 7, 8)]), 3, config)
    assert result.values[0].tolist() == expected
    assert result.lengths.tolist() == [len(expected)]


@pytest.mark.parametrize("config", [AVERAGE, AVERAGE_DROP], ids=["keep", "drop"])
def test_whole_windows_leave_no_tail(config: CompressionConfig) -> None:
    result = compress(Features.pad([column(1, 3, 5, 7)]), 2, config)
    assert result.values[0].tolist() == [[2.0], [6.0]]


def test_the_tail_of_a_short_row_is_averaged_over_its_own_frames() -> None:
    result = compress(Features.pad([column(*range(8)), column(4, 6, 10)]), 2, AVERAGE)
    assert result.lengths.tolist() == [4, 2]
    assert result.values[1].tolist() == [[5.0], [10.0], [0.0], [0.0]]


def test_stacked_frames_stand_in_order_of_time() -> None:
    frames = ramp(4)
    result = compress(Features.pad([frames]), 2, STACK)
    assert torch.equal(result.values[0, 1], torch.cat([frames[2], frames[3]]))


@pytest.mark.parametrize("config", EVERY_KIND)
@pytest.mark.parametrize("rate", [1, 2, 5])
def test_batch_equals_singles(config: CompressionConfig, rate: int) -> None:
    rows = [ramp(11, seed=1), ramp(5, seed=2), ramp(8, seed=3)]
    together = compress(Features.pad(rows), rate, config)
    for index, row in enumerate(rows):
        alone = compress(Features.pad([row]), rate, config)
        assert alone.lengths[0] == together.lengths[index]
        torch.testing.assert_close(together.values[index, : alone.lengths[0]], alone.values[0])


@pytest.mark.parametrize("config", EVERY_KIND)
@pytest.mark.parametrize("content", [float("nan"), float("inf"), 1e9])
def test_what_stands_behind_a_clip_never_matters(config: CompressionConfig, content: float) -> None:
    clean = Features(torch.zeros(2, 10, 3), torch.tensor([7, 4]))
    clean.values[0, :7], clean.values[1, :4] = ramp(7, seed=1), ramp(4, seed=2)
    dirty = Features(clean.values.masked_fill(~clean.mask()[..., None], content), clean.lengths)
    expected, result = compress(clean, 3, config), compress(dirty, 3, config)
    assert torch.equal(result.values, expected.values)
    assert not result.values[~result.mask()].any()


def test_rate_one_changes_nothing() -> None:
    frames = ramp(5)
    assert torch.equal(compress(Features.pad([frames]), 1, AVERAGE).values[0], frames)


def test_average_keeps_the_dtype() -> None:
    assert compress(Features.pad([ramp(5).bfloat16()]), 2, AVERAGE).values.dtype is torch.bfloat16


def test_every_real_frame_receives_gradient_and_padding_none() -> None:
    values = torch.ones(2, 5, 1, requires_grad=True)
    compress(Features(values, torch.tensor([5, 3])), 2, AVERAGE).values.sum().backward()
    assert values.grad is not None
    assert values.grad[..., 0].tolist() == [[0.5, 0.5, 0.5, 0.5, 1.0], [0.5, 0.5, 1.0, 0.0, 0.0]]


def test_a_clip_too_short_for_a_whole_window_is_an_error_with_its_numbers() -> None:
    with pytest.raises(ValueError, match="clip of 3 frames has no whole window at rate 4"):
        compress(Features.pad([ramp(8), ramp(3)]), 4, AVERAGE_DROP)


def test_an_untrained_rate_is_an_error_only_for_tasks_that_use_it() -> None:
    config = CompressionConfig(audio_rates=(4, 16), video_rates=(2,))
    config.check(Rates(16, 3), Task.ASR)
    config.check(Rates(16, 2), Task.AVSR)
    with pytest.raises(ValueError, match=r"video rate 3 was not trained; choose one of \[2\]"):
        config.check(Rates(16, 3), Task.AVSR)
    with pytest.raises(ValueError, match=r"audio rate 5 was not trained; choose one of \[4, 16\]"):
        config.check(Rates(5, 2), Task.ASR)


def test_drawn_rates_are_a_function_of_seed_and_step() -> None:
    first = [draw_rates(AVERAGE, 7, step) for step in range(50)]
    torch.manual_seed(99)
    assert [draw_rates(AVERAGE, 7, step) for step in range(50)] == first
    assert [draw_rates(AVERAGE, 8, step) for step in range(50)] != first


def test_drawing_rates_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    draw_rates(AVERAGE, 7, 3)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("seed", [0, 7, 123])
def test_all_pairs_are_drawn_about_equally(seed: int) -> None:
    counts = Counter(draw_rates(AVERAGE, seed, step) for step in range(400))
    assert set(counts) == set(all_rates(AVERAGE))
    assert all(65 <= count <= 135 for count in counts.values()), counts  # 100, four standard deviations to each side


def test_all_rates_are_every_pair_audio_first() -> None:
    config = CompressionConfig(audio_rates=(4, 16), video_rates=(2, 5))
    assert all_rates(config) == [Rates(4, 2), Rates(4, 5), Rates(16, 2), Rates(16, 5)]
    assert config.rates_of(Modality.AUDIO) == (4, 16)
    assert config.rates_of(Modality.VIDEO) == (2, 5)
