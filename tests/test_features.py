"""Log-mel against Whisper's own feature extractor, the padding rule, and the normalisations."""

import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import WhisperFeatureExtractor

from omni_avsr import features
from omni_avsr.features import log_mel, log_mel_window, normalize_mouth, normalize_waveform
from omni_avsr.types import Features


def whisper_log_mel(waveform: Tensor, num_mels: int = 80) -> Tensor:
    """[3000, num_mels], the clip in 30 s of zeros."""
    extractor = WhisperFeatureExtractor(feature_size=num_mels)
    return torch.from_numpy(extractor(waveform.numpy(), sampling_rate=16_000).input_features[0]).T


def noise(num_samples: int, seed: int = 0) -> Tensor:
    """Noise whose loudness swells and fades, so that both ends of the dynamic range are met."""
    envelope = torch.linspace(0, 6.28, num_samples).cos() ** 4
    return 0.3 * envelope * torch.randn(num_samples, generator=torch.Generator().manual_seed(seed))


def read_flac(path: Path) -> Tensor:
    with av.open(str(path)) as container:
        resampler = av.AudioResampler("flt", "mono", 16_000)
        frames = [part for frame in container.decode(audio=0) for part in resampler.resample(frame)]
        frames += resampler.resample(None)
    return torch.from_numpy(np.concatenate([frame.to_ndarray()[0] for frame in frames]))


@pytest.mark.parametrize("num_samples", [1, 150, 160, 161, 399, 1_999, 48_000, 77_777])
def test_own_frames_equal_whispers_features_of_the_30_s_clip(num_samples: int) -> None:
    waveform = noise(num_samples)
    result = log_mel(Features.pad([waveform]))
    num_frames = -(-num_samples // 160)
    assert result.values.shape == (1, num_frames, 80)
    assert result.lengths.tolist() == [num_frames]
    torch.testing.assert_close(result.values[0], whisper_log_mel(waveform)[:num_frames], atol=1e-4, rtol=0)


@pytest.mark.parametrize("offset", [0, 1, 40, 120, 159])
def test_a_loud_end_heard_only_behind_the_clip_still_sets_the_dynamic_range(offset: int) -> None:
    waveform = noise(3_200 + offset) * 1e-6
    waveform[-1] = 1.0
    result = log_mel(Features.pad([waveform])).values[0]
    torch.testing.assert_close(result, whisper_log_mel(waveform)[: len(result)], atol=1e-4, rtol=0)


def test_large_v3_has_128_bands() -> None:
    waveform = noise(16_000)
    expected = whisper_log_mel(waveform, num_mels=128)[:100]
    torch.testing.assert_close(log_mel(Features.pad([waveform]), 128).values[0], expected, atol=1e-4, rtol=0)


def test_real_speech_equals_whispers_features(shared: Path) -> None:
    paths = sorted((shared / "data/librispeech_test_other").glob("*.flac"))[:3]
    waveforms = [read_flac(path) for path in paths]
    result = log_mel(Features.pad(waveforms))
    for row, length, waveform in zip(result.values, result.lengths, waveforms, strict=True):
        torch.testing.assert_close(row[:length], whisper_log_mel(waveform)[:length], atol=1e-4, rtol=0)


@pytest.mark.parametrize("num_samples", [20_000, 479_990, 480_000])
def test_a_window_of_3000_frames_is_whispers_input_even_at_the_30_s_mark(num_samples: int) -> None:
    waveform = torch.randn(num_samples, generator=torch.Generator().manual_seed(1)) * 0.1
    window = log_mel_window(Features.pad([waveform]), 3_000)[0]
    torch.testing.assert_close(window, whisper_log_mel(waveform), atol=1e-4, rtol=0)


def test_a_clip_is_the_same_alone_and_in_a_batch_whatever_stands_behind_it() -> None:
    clips = [noise(n, seed=n) for n in (9_000, 4_001, 160, 5)]
    batch = Features.pad(clips)
    garbage = torch.where(batch.mask(), batch.values, torch.full_like(batch.values, float("nan")))
    together = log_mel(Features(garbage, batch.lengths))
    for row, length, clip in zip(together.values, together.lengths, clips, strict=True):
        alone = log_mel(Features.pad([clip])).values[0]
        assert length == len(alone)
        torch.testing.assert_close(row[:length], alone, atol=1e-5, rtol=0)
        assert not row[length:].any()


def test_a_clip_longer_than_its_window_is_refused_with_both_sizes() -> None:
    with pytest.raises(ValueError, match=r"1601 samples.*1600 \(10 frames\)"):
        log_mel_window(Features.pad([noise(1_601)]), 10)


def test_autocast_does_not_touch_log_mel() -> None:
    clip = Features.pad([noise(8_000)])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = log_mel(clip).values
    assert torch.equal(result, log_mel(clip).values)


def test_waveform_normalisation_gives_mean_0_and_variance_1_and_leaves_silence_silent() -> None:
    result = normalize_waveform(noise(16_000) + 0.2)
    assert result.mean().abs() < 1e-5
    assert result.var(correction=0).item() == pytest.approx(1.0, abs=1e-3)
    assert not normalize_waveform(torch.zeros(100)).any()


def test_mouth_normalisation_maps_the_byte_range_whatever_the_dtype() -> None:
    video = torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16)
    result = normalize_mouth(video)
    assert result.dtype == torch.float32
    assert result.amin().item() == pytest.approx(-0.421 / 0.165, abs=1e-5)
    assert result.amax().item() == pytest.approx((1 - 0.421) / 0.165, abs=1e-5)
    assert torch.equal(result, normalize_mouth(video.float()))


def test_a_video_frame_lasts_a_whole_number_of_samples() -> None:
    assert features.SAMPLES_PER_VIDEO_FRAME * features.VIDEO_FPS == features.SAMPLE_RATE
    assert features.MEL_FRAME_RATE * features.HOP == features.SAMPLE_RATE


def test_importing_the_features_does_not_import_transformers() -> None:
    code = "import sys, omni_avsr.features; sys.exit('transformers' in sys.modules)"
    root = Path(features.__file__).parents[1]
    assert subprocess.run([sys.executable, "-c", code], cwd=root).returncode == 0
