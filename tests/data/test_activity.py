"""Speech is found by energy alone: whatever its level and its pauses, beside hum and clicks, and near to ITU-T P.56."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from omni_avsr.data.activity import FRAME, HANGOVER, speech_activity
from omni_avsr.media import read_audio

RATE = 16_000
HELD = FRAME * HANGOVER


def tone(seconds: float, level: float, frequency: float = 200.0) -> Tensor:
    """A tone of the given RMS."""
    return level * 2**0.5 * torch.sin(2 * torch.pi * frequency / RATE * torch.arange(round(seconds * RATE)))


def phrase(before: float = 1.0, after: float = 1.0, level: float = 0.1) -> Tensor:
    """A second of sound between silences."""
    return torch.cat([torch.zeros(round(before * RATE)), tone(1.0, level), torch.zeros(round(after * RATE))])


def span(active: Tensor) -> tuple[int, int]:
    """Where activity begins and ends; it must be one stretch."""
    (places,) = active.nonzero(as_tuple=True)
    assert len(places) == places[-1] - places[0] + 1
    return int(places[0]), int(places[-1]) + 1


@pytest.mark.parametrize("level", [0.5, 0.1, 0.001])
@pytest.mark.parametrize("silence", [1.0, 20.0])
def test_speech_between_silences_is_found_whatever_its_level_and_its_share(level: float, silence: float) -> None:
    active = speech_activity(phrase(silence, silence, level))
    start, stop = span(active)
    assert abs(start - silence * RATE) <= 2 * FRAME
    assert abs(stop - ((silence + 1) * RATE + HELD)) <= 2 * FRAME


def test_a_steady_hum_is_no_speech_unless_it_is_as_loud_as_the_clip() -> None:
    clip = phrase()
    start, stop = span(speech_activity(clip + tone(3.0, 0.1 * 10 ** (-22 / 20), 50.0)))
    assert abs(start - RATE) <= 2 * FRAME
    assert abs(stop - (2 * RATE + HELD)) <= 2 * FRAME
    assert speech_activity(clip + tone(3.0, 0.1 * 10 ** (-10 / 20), 50.0)).all()


@pytest.mark.parametrize("seconds", [0.001, 0.02])
def test_a_click_in_a_pause_neither_counts_nor_hides_the_speech(seconds: float) -> None:
    clip = phrase(level=0.01)
    clicked = clip.clone()
    clicked[5000 : 5000 + round(seconds * RATE)] = 0.99
    assert torch.equal(speech_activity(clicked), speech_activity(clip))


def test_a_short_pause_is_part_of_speech_and_a_long_one_is_not() -> None:
    for pause, held in ((0.15, True), (0.6, False)):
        clip = torch.cat([tone(0.5, 0.1), torch.zeros(round(pause * RATE)), tone(0.5, 0.1)])
        assert bool(speech_activity(clip).all()) is held


def test_noise_of_one_level_is_active_all_along() -> None:
    assert speech_activity(0.1 * torch.randn(9 * FRAME + 7, generator=torch.Generator().manual_seed(1))).all()


@pytest.mark.parametrize("samples", [0, 1, 5000])
def test_silence_has_no_speech(samples: int) -> None:
    active = speech_activity(torch.zeros(samples))
    assert active.shape == (samples,)
    assert not active.any()


@pytest.mark.parametrize("samples", [1, FRAME - 1, FRAME, 2 * FRAME + 1])
def test_a_clip_of_a_few_frames_has_an_answer_for_each_sample(samples: int) -> None:
    active = speech_activity(torch.full((samples,), 0.1))
    assert active.shape == (samples,)
    assert active.all()


def test_a_click_and_nothing_else_leaves_something() -> None:
    clip = torch.zeros(RATE)
    clip[777] = 1.0
    assert speech_activity(clip)[777]


def p56_level_db(samples: np.ndarray) -> float:
    """The active speech level of ITU-T P.56, method B, by its own envelope of samples: a slow reference."""
    envelope = np.abs(samples.astype(np.float64))
    for _ in range(2):
        # An exponential average of 30 ms, as a convolution with its impulse response.
        response = np.exp(-np.arange(8000) / (0.03 * RATE))
        size = 2 ** int(np.ceil(np.log2(len(envelope) + len(response))))
        spectrum = np.fft.rfft(envelope, size) * np.fft.rfft(response / response.sum(), size)
        envelope = np.fft.irfft(spectrum, size)[: len(envelope)]
    energy = float((samples.astype(np.float64) ** 2).sum())
    for threshold_db in np.arange(-70, 0, 0.25):
        loud = np.where(envelope >= 10 ** (threshold_db / 20), np.arange(len(samples)), -RATE)
        active = np.arange(len(samples)) - np.maximum.accumulate(loud) <= 0.2 * RATE
        level_db = float(10 * np.log10(energy / active.sum()))
        if level_db - threshold_db <= 15.9:
            return level_db
    raise AssertionError("no threshold is 15.9 dB below its level")


def test_the_level_of_real_speech_is_that_of_p56(shared: Path) -> None:
    clips = sorted((shared / "data" / "librispeech_test_other").rglob("*.flac"))[:3]
    clips += sorted((shared / "data" / "grid" / "s1").glob("*.mp4"))[:3]
    assert len(clips) == 6
    differences = []
    for clip in clips:
        samples = read_audio(clip)
        active = speech_activity(torch.from_numpy(samples)).numpy()
        level_db = 10 * np.log10((samples[active].astype(np.float64) ** 2).mean())
        differences.append(abs(level_db - p56_level_db(samples)))
    assert max(differences) < 1.0
    assert np.mean(differences) < 0.4
