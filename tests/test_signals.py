"""What sound and pictures tell before they are encoded."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from omni_avsr.data.noise import NoiseSource
from omni_avsr.data.noise_recording import MemoryRecording
from omni_avsr.media import read_audio
from omni_avsr.signals import estimate_snr, is_silent, visible_share


def spoken(seconds: float = 3.0) -> torch.Tensor:
    """Bursts of tone with pauses between them, over a floor of its own."""
    time = torch.arange(round(16_000 * seconds)) / 16_000
    bursts = (torch.sin(2 * math.pi * 1.2 * time) > 0).float()
    noise = 1e-4 * torch.randn(len(time), generator=torch.Generator().manual_seed(1))
    return 0.2 * bursts * torch.sin(2 * math.pi * 200 * time) + noise


@pytest.mark.parametrize("snr_db", [20.0, 10.0, 0.0, -5.0])
def test_the_ratio_of_steady_noise_is_found(snr_db: float) -> None:
    white = torch.randn(80_000, generator=torch.Generator().manual_seed(0)) * 0.1
    mixed = NoiseSource([MemoryRecording(white)]).mix(spoken(), snr_db, torch.Generator().manual_seed(0))
    assert estimate_snr(mixed) == pytest.approx(snr_db, abs=2.0)


def test_the_ratio_of_babble_is_found_in_real_speech(shared: Path) -> None:
    babble = NoiseSource([MemoryRecording(torch.from_numpy(read_audio(shared / "data/noise/babble_test.flac")))])
    files = sorted((shared / "data/grid/s1").glob("*.mp4"))[::90]
    clean = [torch.from_numpy(read_audio(file)) for file in files]
    for snr_db in (20.0, 10.0, 5.0, 0.0):
        mixed = [babble.mix(w, snr_db, torch.Generator().manual_seed(n)) for n, w in enumerate(clean)]
        assert np.median([estimate_snr(w) for w in mixed]) == pytest.approx(snr_db, abs=3.0)


def test_silence_has_no_ratio() -> None:
    assert estimate_snr(torch.zeros(16_000)) == -math.inf
    assert is_silent(torch.zeros(0))
    assert not is_silent(spoken())
    assert math.isfinite(estimate_snr(torch.ones(100) * 0.1))


def test_black_and_white_frames_show_nothing() -> None:
    frames = np.random.default_rng(0).integers(0, 255, (10, 96, 96), dtype=np.uint8)
    assert visible_share(frames) == 1.0
    frames[:3], frames[3] = 0, 255
    assert visible_share(frames) == 0.6
    assert visible_share(frames[:0]) == 0.0
