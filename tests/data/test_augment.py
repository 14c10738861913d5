"""Augmentation: a function of its generator, within its bounds, never in place."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from omni_avsr.data.augment import AugmentConfig, Augmenter, mask_time
from omni_avsr.data.noise import NoiseSource
from omni_avsr.data.noise_recording import MemoryRecording
from omni_avsr.features import centre_crop

PLAIN = {"video_mask_frames": 0, "audio_mask_samples": 0, "snr_db": ()}
NOISE = NoiseSource([MemoryRecording(torch.randn(5000, generator=torch.Generator().manual_seed(3)))])


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def crops(frames: int = 60, size: int = 96) -> Tensor:
    return torch.randint(1, 255, (frames, size, size), generator=generator(1), dtype=torch.uint8)


def coordinates(frames: int = 3) -> Tensor:
    """Crops whose pixel tells its row (even frames) or its column (odd frames)."""
    line = torch.arange(96, dtype=torch.uint8)
    both = torch.stack([line[:, None].expand(96, 96), line.expand(96, 96)])
    return both[torch.arange(frames) % 2]


def speech(samples: int = 40_000) -> Tensor:
    return 0.1 + torch.rand(samples, generator=generator(2))


def augmenter(noise: NoiseSource | None = None, **changes: object) -> Augmenter:
    return Augmenter(AugmentConfig(**(PLAIN | changes)), noise)


def runs(flags: Tensor) -> list[int]:
    """Lengths of the stretches of true."""
    lengths, current = [], 0
    for flag in [*flags.tolist(), False]:
        if flag:
            current += 1
        elif current:
            lengths.append(current)
            current = 0
    return lengths


@pytest.mark.parametrize(
    "change",
    [
        lambda source: augmenter().video(coordinates(), source),
        lambda source: augmenter(flip=0.5, brightness=0.2, contrast=0.2, video_mask_frames=10).video(crops(), source),
        lambda source: augmenter(zoom=0.1, rotation=8).video(crops(), source),
        lambda source: augmenter(audio_mask_samples=6400).audio(speech(), source)[0],
        lambda source: augmenter(NOISE, snr_db=(0.0, 5.0, None)).audio(speech(), source)[0],
    ],
    ids=["crop", "all of video", "zoom and rotation", "time masks", "noise"],
)
def test_equal_generators_give_equal_clips_and_others_do_not(change: Callable[[torch.Generator], Tensor]) -> None:
    first = change(generator(1))
    for seed in range(8):
        torch.manual_seed(seed)
        assert torch.equal(change(generator(1)), first)
    assert any(not torch.equal(change(generator(seed)), first) for seed in range(2, 6))


def test_video_keeps_frames_and_dtype_and_has_the_size_of_a_crop() -> None:
    full = augmenter(flip=0.5, brightness=0.2, contrast=0.2, video_mask_frames=10)
    result = full.video(crops(7), generator())
    assert result.shape == (7, 88, 88)
    assert result.dtype is torch.uint8


def disc() -> Tensor:
    """Frames of a bright disc of 40 pixels across, a quarter of it dark, in the middle of 88."""
    line = torch.arange(88) - 43.5
    inside = line[:, None].square() + line.square() < 20**2
    quarter = (line[:, None] < 0) & (line < 0)
    return torch.where(inside, torch.where(quarter, 60, 250), 10).to(torch.uint8).expand(4, 88, 88)


def test_zoom_changes_the_size_within_its_bounds_and_all_frames_alike() -> None:
    whole = augmenter(zoom=0.2)
    areas = []
    for seed in range(40):
        result = whole.video(disc(), generator(seed))
        assert (result == result[0]).all()
        areas.append(float((result[0].float() > 155).float().sum()) / float((disc()[0] > 155).float().sum()))
    assert 0.62 < min(areas) < 0.75
    assert 1.25 < max(areas) < 1.46


def test_rotation_turns_within_its_bounds() -> None:
    line = torch.arange(88) - 43.5
    angles = []
    for seed in range(40):
        result = augmenter(rotation=20.0).video(disc(), generator(seed))[0].float()
        bright = (result > 155).float()
        x, y = (bright * line).sum() / bright.sum(), (bright * line[:, None]).sum() / bright.sum()
        angles.append(float(torch.rad2deg(torch.atan2(y, x))) - 45)
    assert -21 < min(angles) < -12
    assert 12 < max(angles) < 21


def test_audio_keeps_samples_and_dtype() -> None:
    result, _ = Augmenter(AugmentConfig(), NOISE).audio(speech(12_345), generator())
    assert result.shape == (12_345,)
    assert result.dtype is torch.float32


def test_originals_are_not_modified() -> None:
    video, waveform = crops(), speech()
    before = video.clone(), waveform.clone()
    full = augmenter(NOISE, brightness=0.3, video_mask_frames=30, audio_mask_samples=9000, snr_db=(-5.0,))
    for seed in range(5):
        full.video(video, generator(seed))
        full.audio(waveform, generator(seed))
    assert torch.equal(video, before[0])
    assert torch.equal(waveform, before[1])


def test_crops_are_whole_windows_of_the_picture_at_all_offsets() -> None:
    plain = augmenter()
    offsets = set()
    for seed in range(300):
        rows, columns = plain.video(coordinates(2), generator(seed)).long()
        top, left = int(rows[0, 0]), int(columns[0, 0])
        assert torch.equal(rows, top + torch.arange(88)[:, None].expand(88, 88))
        assert torch.equal(columns, left + torch.arange(88).expand(88, 88))
        offsets.add((top, left))
    assert {top for top, _ in offsets} == {left for _, left in offsets} == set(range(9))


def test_crops_that_are_too_small_are_an_error() -> None:
    with pytest.raises(ValueError, match="mouth crops of 87 pixels are too small; 88 of them are used"):
        augmenter().video(crops(2, 87), generator())


def test_flip_mirrors_left_and_right_of_every_frame() -> None:
    result = augmenter(flip=1.0).video(coordinates(4), generator())
    straight = augmenter(flip=0.0).video(coordinates(4), generator())
    assert torch.equal(result, straight.flip(-1))
    assert not torch.equal(result, straight)


def test_flip_happens_at_its_rate() -> None:
    half = augmenter(flip=0.5)
    flipped = [
        bool((video := half.video(coordinates(2), generator(seed)))[1, 0, 0] > video[1, 0, 1]) for seed in range(200)
    ]
    assert 70 <= sum(flipped) <= 130


def test_brightness_and_contrast_change_levels_within_bounds() -> None:
    video = crops(size=88).clamp(100, 150)
    bright = [augmenter(brightness=0.1).video(video, generator(seed)) for seed in range(20)]
    shifts = torch.tensor([float((result.float() - video.float()).mean()) for result in bright])
    assert shifts.abs().max() <= 25.5 + 1
    assert shifts.min() < -5
    assert shifts.max() > 5
    contrast = [augmenter(contrast=0.2).video(video, generator(seed)) for seed in range(20)]
    gains = torch.tensor([float(result.float().std() / video.float().std()) for result in contrast])
    assert gains.min() > 0.78
    assert gains.max() < 1.22
    assert gains.max() - gains.min() > 0.1


@pytest.mark.parametrize(("frames", "masks"), [(75, 3), (76, 4), (25, 1), (5, 1)])
def test_video_masks_are_at_most_one_a_second_and_as_long_as_allowed(frames: int, masks: int) -> None:
    video = crops(frames, 88)
    mean = int(video.float().mean())
    covered = []
    for seed in range(100):
        result = augmenter(video_mask_frames=4).video(video, generator(seed))
        changed = (result != video).flatten(1).any(1)
        assert (result[changed] == mean).all()
        assert sum(-(-length // 4) for length in runs(changed)) <= masks
        covered.append(int(changed.sum()))
    assert min(covered) < max(covered) <= 4 * masks
    assert max(covered) > 2 * masks


def test_audio_masks_are_at_most_one_a_second_and_as_long_as_allowed() -> None:
    covered = []
    for seed in range(100):
        waveform = speech(40_000)
        result, _ = augmenter(audio_mask_samples=1000).audio(waveform, generator(seed))
        changed = result != waveform
        assert not result[changed].any()
        assert len(runs(changed)) <= 3
        assert max(runs(changed), default=0) <= 3000
        covered.append(int(changed.sum()))
    assert max(covered) <= 3000
    assert len(set(covered)) > 50


@pytest.mark.parametrize("length", [1, 3])
def test_a_mask_longer_than_the_clip_stays_inside_it(length: int) -> None:
    result = mask_time(torch.ones(length), 5, 1000, 0.0, generator())
    assert result.shape == (length,)


def test_masks_reach_both_ends_and_every_length() -> None:
    results = torch.stack([mask_time(torch.ones(6), 1, 3, 0.0, generator(seed)) for seed in range(200)])
    lengths = (results == 0).sum(1)
    assert set(lengths.tolist()) == {0, 1, 2, 3}
    assert (results == 0).any(0).all()


def test_a_level_of_none_is_clean() -> None:
    waveform = speech()
    for noise in (NOISE, None):
        result, level = augmenter(noise, snr_db=(None,)).audio(waveform, generator())
        assert torch.equal(result, waveform)
        assert level == math.inf


def test_every_level_of_the_list_is_drawn_and_told_and_no_other() -> None:
    mixer, waveform = augmenter(NOISE, snr_db=(0.0, 20.0, None)), 0.1 * speech(4000)
    levels: list[float] = []
    for seed in range(90):
        noisy, level = mixer.audio(waveform, generator(seed))
        power = float((noisy - waveform).square().mean() / waveform.square().mean())
        assert level == (math.inf if power == 0 else round(-10 * math.log10(power), 1))
        levels.append(level)
    assert set(levels) == {0.0, 20.0, math.inf}
    assert min(levels.count(level) for level in set(levels)) > 15


def test_noise_levels_without_a_noise_recording_are_an_error() -> None:
    with pytest.raises(ValueError, match="no noise file"):
        Augmenter(AugmentConfig(), None)
    Augmenter(AugmentConfig(snr_db=()), None)


def test_defaults_are_the_published_augmentation() -> None:
    config = AugmentConfig()
    assert (config.flip, config.video_mask_frames, config.audio_mask_samples) == (0.0, 10, 6400)
    assert (config.zoom, config.rotation, config.brightness, config.contrast) == (0.0, 0.0, 0.0, 0.0)
    assert config.snr_db == (-5, 0, 5, 10, 15, 20, None)


def test_centre_crop_takes_the_middle() -> None:
    rows, columns = centre_crop(coordinates(2), 88)
    assert rows.shape == (88, 88)
    assert rows[:, 0].tolist() == list(range(4, 92))
    assert columns[0].tolist() == list(range(4, 92))
