"""Noise at the ratio that was asked for where somebody speaks, from any recordings, and never beyond full scale."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from omni_avsr.data.activity import speech_activity
from omni_avsr.data.noise import LARGEST_SAMPLE, NoiseSource, SnrOver
from omni_avsr.data.noise_recording import MemoryRecording
from omni_avsr.data.noise_set import open_noise
from omni_avsr.media import read_audio

SECOND = 16_000


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def signal(samples: int, seed: int, level: float = 0.02) -> Tensor:
    return level * torch.randn(samples, generator=generator(seed))


def phrases(seed: int = 2, level: float = 0.02) -> Tensor:
    """Three seconds, of which 0.8 are speech."""
    clip = torch.zeros(3 * SECOND)
    for start in (SECOND, 2 * SECOND):
        clip[start : start + 6400] = signal(6400, seed + start, level)
    return clip


def source(*samples: Tensor, snr_over: SnrOver = "speech") -> NoiseSource:
    recordings = [MemoryRecording(values, f"recording {number}") for number, values in enumerate(samples)]
    return NoiseSource(recordings, snr_over)


def power(samples: Tensor) -> float:
    return float(samples.double().square().mean())


def measured_snr_db(mixer: NoiseSource, clean: Tensor, snr_db: float, seed: int) -> float:
    """The ratio in the mixture, over the speech, by the shapes of both parts; the mixture may be made quieter."""
    noise = (mixer.mix(clean, 50.0, generator(seed)) - clean).double()  # the same piece, hardly heard
    mixed = mixer.mix(clean, snr_db, generator(seed)).double()
    assert mixed.abs().max() <= LARGEST_SAMPLE
    parts = torch.stack([clean.double(), noise], dim=1)
    gains = torch.linalg.lstsq(parts, mixed[:, None]).solution[:, 0]
    torch.testing.assert_close(parts @ gains, mixed, atol=1e-4, rtol=0)
    speech, added = (parts * gains)[speech_activity(clean)].T
    return float(10 * torch.log10(torch.tensor(power(speech) / power(added))))


@pytest.mark.parametrize("snr_db", [-10.0, -5.0, 0.0, 10.0, 30.0])
@pytest.mark.parametrize("noise_samples", [400, 50_000], ids=["short noise", "long noise"])
@pytest.mark.parametrize("level", [0.0005, 0.02, 0.5])
def test_the_mixture_has_the_ratio_that_was_asked_for_where_there_is_speech(
    snr_db: float, noise_samples: int, level: float
) -> None:
    # Loudness changes over the recording, so that each piece needs its own scale.
    mixer = source(signal(noise_samples, 1) * torch.linspace(0.1, 3, noise_samples))
    clean = phrases(level=level).clamp(-0.9, 0.9)
    assert 0.25 < speech_activity(clean).float().mean() < 0.5
    for seed in range(3):
        assert measured_snr_db(mixer, clean, snr_db, seed) == pytest.approx(snr_db, abs=0.1)


def test_over_the_clip_pauses_count_too_as_in_the_published_code() -> None:
    noise, clean = signal(50_000, 1), phrases()
    for over, where in (("clip", torch.ones(len(clean), dtype=torch.bool)), ("speech", speech_activity(clean))):
        added = source(noise, snr_over=over).mix(clean, 5.0, generator(3)) - clean  # type: ignore[arg-type]
        assert 10 * torch.log10(clean[where].square().mean() / added[where].square().mean()) == pytest.approx(
            5, abs=0.01
        )
    louder = source(noise).mix(clean, 5.0, generator(3)) - clean
    quieter = source(noise, snr_over="clip").mix(clean, 5.0, generator(3)) - clean
    assert power(louder) > 1.5 * power(quieter)
    torch.testing.assert_close(louder / louder.norm(), quieter / quieter.norm(), atol=1e-5, rtol=0)


def test_a_mixture_that_would_clip_is_made_quieter_as_a_whole() -> None:
    noise, clean = signal(50_000, 1), phrases(level=0.2)
    mixed = source(noise).mix(clean, -5.0, generator())
    assert float(mixed.abs().max()) == pytest.approx(LARGEST_SAMPLE, abs=1e-6)
    quiet = source(noise).mix(clean / 100, -5.0, generator())
    assert float(quiet.abs().max()) < 0.5
    torch.testing.assert_close(mixed / mixed.norm(), quiet / quiet.norm(), atol=1e-6, rtol=0)


def test_what_is_added_is_a_piece_of_the_recording() -> None:
    noise = signal(1000, 1)
    clean = signal(300, 2)
    added = source(noise).mix(clean, 0.0, generator()) - clean
    pieces = torch.cat([noise, noise]).unfold(0, 300, 1)
    likeness = torch.cosine_similarity(pieces, added[None], dim=1)
    assert likeness.max() > 0.9999
    assert int((likeness > 0.9).sum()) in (1, 2)  # a place and its repetition


def test_short_noise_repeats_without_a_gap() -> None:
    clean = signal(350, 2)
    added = source(signal(100, 1)).mix(clean, 0.0, generator()) - clean
    torch.testing.assert_close(added[100:200], added[:100], atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(added[300:], added[:50], atol=1e-6, rtol=1e-4)


def test_the_generator_draws_the_recording_and_the_place_and_nothing_else_does() -> None:
    recordings = [torch.full((9000,), 0.1), torch.full((50,), -0.1), signal(5000, 1)]
    mixer, clean = source(*recordings), signal(300, 2)
    first = mixer.mix(clean, 0.0, generator(1))
    torch.manual_seed(5)
    assert torch.equal(source(*recordings).mix(clean, 0.0, generator(1)), first)
    kinds = []
    for seed in range(150):
        added = mixer.mix(clean, 0.0, generator(seed)) - clean
        kinds.append("random" if added.std() > 1e-3 else "up" if added[0] > 0 else "down")
    # Recordings are equally likely, whatever their lengths.
    assert all(30 <= kinds.count(kind) <= 70 for kind in ("random", "up", "down"))


@pytest.mark.parametrize("snr_over", ["speech", "clip"])
def test_silent_speech_stays_silent(snr_over: SnrOver) -> None:
    mixed = source(signal(5000, 1), snr_over=snr_over).mix(torch.zeros(300), -5.0, generator())
    assert torch.equal(mixed, torch.zeros(300))


@pytest.mark.parametrize("level", [0.0, 2e-5], ids=["digital silence", "rounding"])
def test_a_silent_piece_is_drawn_again(level: float) -> None:
    noise = signal(100_000, 3, level)
    noise[30_000:40_000] = signal(10_000, 1)
    clean = signal(300, 2)
    for seed in range(20):
        added = source(noise).mix(clean, 0.0, generator(seed)) - clean
        assert power(added) == pytest.approx(power(clean), rel=1e-3)
        assert added.abs().max() < 10 * power(added) ** 0.5  # rounding has no room for such a shape


def test_a_bang_in_a_pause_is_drawn_again_where_little_else_sounds() -> None:
    noise = signal(10 * SECOND, 1, 0.0005)
    noise[4 * SECOND : 4 * SECOND + 800] = 0.9
    for seed in range(30):
        mixed = source(noise).mix(phrases(), 0.0, generator(seed))
        # Noise as loud as the speech leaves the speech near its level; a bang would press it down by 30 dB.
        assert power(mixed[phrases() != 0]) > power(phrases()[phrases() != 0])


def test_noise_in_which_nothing_sounds_is_an_error_that_names_it() -> None:
    noise = torch.zeros(10_000_000)
    noise[0] = 1.0
    with pytest.raises(
        ValueError, match="100 pieces of noise were drawn, such as one from recording 0, and none sounds"
    ):
        source(noise).mix(signal(300, 2), -5.0, generator())


def test_speech_is_not_modified() -> None:
    clean = signal(300, 2, 0.3)
    before = clean.clone()
    source(signal(5000, 1)).mix(clean, -5.0, generator())
    assert torch.equal(clean, before)


@pytest.mark.parametrize("samples", [0, 100], ids=["empty", "silent"])
def test_a_recording_without_sound_is_an_error(samples: int) -> None:
    with pytest.raises(ValueError, match="recording 0: the noise recording is empty or silent"):
        source(torch.zeros(samples))
    with pytest.raises(ValueError, match="no recording of noise"):
        NoiseSource([])


def test_the_fingerprint_is_of_the_sounds_and_of_where_the_ratio_is_measured() -> None:
    first, second = signal(500, 1), signal(500, 2)
    same = NoiseSource([MemoryRecording(first.clone(), "elsewhere")])
    assert source(first).fingerprint == same.fingerprint
    others: Sequence[NoiseSource] = (source(second), source(first, second), source(first, snr_over="clip"))
    assert len({source(first).fingerprint, *(other.fingerprint for other in others)}) == 4


def test_real_speech_in_real_noise_has_the_ratio_over_its_speech(shared: Path) -> None:
    clips = sorted((shared / "data" / "librispeech_test_other").rglob("*.flac"))[:2]
    clips += sorted((shared / "data" / "grid" / "s1").glob("*.mp4"))[:2]
    assert len(clips) == 4
    for noise in ("babble_test", "dude_miaowing"):
        mixer = NoiseSource(open_noise(shared / "data" / "noise" / f"{noise}.flac", ("test",)))
        for clip in clips:
            clean = 0.8 * torch.from_numpy(read_audio(clip))
            for snr_db in (-5.0, 0.0, 15.0):
                assert measured_snr_db(mixer, clean, snr_db, 1) == pytest.approx(snr_db, abs=0.1)
