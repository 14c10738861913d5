"""Noise at the ratio that was asked for, from any recording."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from omni_avsr.data.noise import NoiseSource
from omni_avsr.media import write_audio


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def signal(samples: int, seed: int, level: float = 0.1) -> Tensor:
    return level * torch.randn(samples, generator=generator(seed))


def measured_snr_db(clean: Tensor, mixed: Tensor) -> float:
    return float(10 * (clean.square().mean() / (mixed - clean).square().mean()).log10())


@pytest.mark.parametrize("snr_db", [-5.0, 0.0, 10.0])
@pytest.mark.parametrize("noise_samples", [400, 50_000], ids=["short noise", "long noise"])
def test_the_mixture_has_the_ratio_that_was_asked_for(snr_db: float, noise_samples: int) -> None:
    # loudness changes over the recording, so that each piece needs its own scale
    noise = signal(noise_samples, 1) * torch.linspace(0.01, 3, noise_samples)
    clean = signal(16_000, 2)
    for seed in range(5):
        mixed = NoiseSource(noise).mix(clean, snr_db, generator(seed))
        assert measured_snr_db(clean, mixed) == pytest.approx(snr_db, abs=0.1)


def test_what_is_added_is_a_piece_of_the_recording() -> None:
    noise = signal(1000, 1)
    clean = signal(300, 2)
    added = NoiseSource(noise).mix(clean, 0.0, generator()) - clean
    pieces = torch.cat([noise, noise]).unfold(0, 300, 1)
    likeness = torch.cosine_similarity(pieces, added[None], dim=1)
    assert likeness.max() > 0.9999
    assert int((likeness > 0.9).sum()) == 1 or int((likeness > 0.9).sum()) == 2  # a place and its repetition


def test_short_noise_repeats_without_a_gap() -> None:
    source = NoiseSource(signal(100, 1))
    clean = signal(350, 2)
    added = source.mix(clean, 0.0, generator()) - clean
    torch.testing.assert_close(added[100:200], added[:100], atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(added[300:], added[:50], atol=1e-6, rtol=1e-4)


def test_the_generator_draws_the_piece() -> None:
    source, clean = NoiseSource(signal(5000, 1)), signal(300, 2)
    first = source.mix(clean, 0.0, generator(1))
    assert torch.equal(source.mix(clean, 0.0, generator(1)), first)
    assert not torch.equal(source.mix(clean, 0.0, generator(2)), first)


def test_silent_speech_stays_silent() -> None:
    mixed = NoiseSource(signal(5000, 1)).mix(torch.zeros(300), -5.0, generator())
    assert torch.equal(mixed, torch.zeros(300))


def test_a_silent_piece_of_noise_leaves_speech_as_it_is() -> None:
    noise = torch.zeros(100_000)
    noise[0] = 1.0
    clean = signal(300, 2)
    mixed = NoiseSource(noise).mix(clean, -5.0, generator())
    assert torch.equal(mixed, clean)


def test_speech_is_not_modified() -> None:
    clean = signal(300, 2)
    before = clean.clone()
    NoiseSource(signal(5000, 1)).mix(clean, 0.0, generator())
    assert torch.equal(clean, before)


@pytest.mark.parametrize("samples", [0, 100], ids=["empty", "silent"])
def test_a_recording_without_sound_is_an_error(samples: int) -> None:
    with pytest.raises(ValueError, match="empty or silent"):
        NoiseSource(torch.zeros(samples))


def test_a_recording_is_read_as_16_khz_mono(tmp_path: Path) -> None:
    samples = signal(2000, 1).clamp(-1, 1)
    write_audio(tmp_path / "noise.wav", samples.numpy())
    source = NoiseSource.read(tmp_path / "noise.wav")
    torch.testing.assert_close(source.samples, samples, atol=1 / 32768, rtol=0)
