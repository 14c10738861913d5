"""Examples as pure functions of (seed, step, index), and how they are joined into batches."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from omni_avsr.data.augment import AugmentConfig, Augmenter
from omni_avsr.data.batching import BatchingConfig, BatchPlan, ClipSize, PlanSampler
from omni_avsr.data.cache import ClipCache, open_cache
from omni_avsr.data.dataset import BatchDataset, collate, example_generator
from omni_avsr.data.noise import NoiseSource
from omni_avsr.data.noise_recording import MemoryRecording
from omni_avsr.features import MOUTH_CROP, MOUTH_SIZE, normalize_mouth
from omni_avsr.media import write_audio, write_video
from omni_avsr.types import Batch, Clip, Example, Modality, Task

FRAMES = (6, 4, 5, 3)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[Clip]:
    folder = tmp_path_factory.mktemp("clips")
    random = np.random.default_rng(0)
    made = []
    for number, frames in enumerate(FRAMES):
        audio, video = folder / f"{number}.wav", folder / f"{number}.mp4"
        write_audio(audio, (0.3 * random.standard_normal(frames * 640) + 0.1).clip(-1, 1))
        smooth = random.integers(0, 256, (frames, 4, 4), dtype=np.uint8).repeat(24, 1).repeat(24, 2)
        write_video(video, smooth, lossless=True)
        made.append(Clip(str(number), f"text {number}", "train", frames / 25, audio, video, frames))
    return made


@pytest.fixture(scope="module")
def cache(clips: list[Clip], tmp_path_factory: pytest.TempPathFactory) -> ClipCache:
    return open_cache(clips, tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def augmenter() -> Augmenter:
    noise = NoiseSource([MemoryRecording(torch.randn(5000, generator=torch.Generator().manual_seed(0)))])
    config = AugmentConfig(flip=0.5, brightness=0.2, video_mask_frames=2, audio_mask_samples=300)
    return Augmenter(config, noise)


def same(first: Batch, second: Batch) -> bool:
    return first.clips == second.clips and all(
        torch.equal(first.inputs[modality].values, second.inputs[modality].values)
        and torch.equal(first.inputs[modality].lengths, second.inputs[modality].lengths)
        for modality in Modality
    )


def values_of(example: Example) -> tuple[torch.Tensor, torch.Tensor]:
    assert example.waveform is not None
    assert example.video is not None
    return example.waveform, example.video


def test_an_example_is_a_function_of_seed_step_and_index(
    clips: list[Clip], cache: ClipCache, augmenter: Augmenter
) -> None:
    first = BatchDataset(clips, cache, augmenter=augmenter, seed=1)
    expected = values_of(first.example(2, step=5))
    second = BatchDataset(clips, cache, augmenter=augmenter, seed=1)
    torch.manual_seed(3)
    second.example(0, step=4)
    again = values_of(second.example(2, step=5))
    assert all(torch.equal(a, b) for a, b in zip(expected, again, strict=True))
    other_seed = BatchDataset(clips, cache, augmenter=augmenter, seed=2)
    for other in (first.example(2, step=6), other_seed.example(2, step=5)):
        assert all(not torch.equal(a, b) for a, b in zip(expected, values_of(other), strict=True))


def test_every_clip_and_step_has_its_own_generator() -> None:
    draws = {
        int(torch.randint(2**62, (), generator=example_generator(seed, step, index)))
        for seed in range(3)
        for step in range(20)
        for index in range(20)
    }
    assert len(draws) == 3 * 20 * 20


def test_large_seeds_and_steps_are_valid() -> None:
    example_generator(2**40, 10**7, 10**7)


def test_batches_do_not_depend_on_the_number_of_workers(
    clips: list[Clip], cache: ClipCache, augmenter: Augmenter
) -> None:
    dataset = BatchDataset(clips, cache, augmenter=augmenter, seed=1)
    sizes = [ClipSize(clip.num_frames, 3, clip.modalities) for clip in clips]
    sampler = PlanSampler(sizes, BatchingConfig(max_clips=2), num_steps=4, seed=7)
    batches = [list(DataLoader(dataset, batch_size=None, sampler=sampler, num_workers=workers)) for workers in (0, 1)]
    assert [batch.step for batch in batches[1]] == [0, 1, 2, 3]
    assert all(same(mine, theirs) for mine, theirs in zip(*batches, strict=True))


def test_without_an_augmenter_clips_are_centre_cropped_and_clean(clips: list[Clip], cache: ClipCache) -> None:
    waveform, video = values_of(BatchDataset(clips, cache).example(1, step=9))
    expected = cache.video(clips[1])
    assert expected is not None
    border = (MOUTH_SIZE - MOUTH_CROP) // 2
    assert torch.equal(video, normalize_mouth(expected[:, border:-border, border:-border]))
    clean = cache.waveform(clips[1])
    assert clean is not None
    assert torch.equal(waveform, clean)


@pytest.mark.parametrize("augmented", [False, True])
def test_values_have_their_shapes_and_dtypes(
    augmented: bool, clips: list[Clip], cache: ClipCache, augmenter: Augmenter
) -> None:
    dataset = BatchDataset(clips, cache, augmenter=augmenter if augmented else None)
    waveform, video = values_of(dataset.example(0))
    assert video.shape == (6, MOUTH_CROP, MOUTH_CROP)
    assert waveform.shape == (6 * 640,)
    assert video.dtype is waveform.dtype is torch.float32


@pytest.mark.parametrize("augmented", [False, True])
def test_waveforms_are_normalised_when_asked(
    augmented: bool, clips: list[Clip], cache: ClipCache, augmenter: Augmenter
) -> None:
    chosen = augmenter if augmented else None
    normalised, _ = values_of(BatchDataset(clips, cache, "layer_norm", chosen, seed=1).example(0, step=2))
    raw, _ = values_of(BatchDataset(clips, cache, "raw", chosen, seed=1).example(0, step=2))
    assert normalised.mean().item() == pytest.approx(0, abs=1e-4)
    assert normalised.std().item() == pytest.approx(1, abs=1e-3)
    torch.testing.assert_close(normalised, (raw - raw.mean()) / raw.std(), atol=2e-3, rtol=2e-3)


def test_batches_are_padded_with_zeros_behind_their_lengths(clips: list[Clip], cache: ClipCache) -> None:
    dataset = BatchDataset(clips, cache)
    totals = {Task.ASR: 30, Task.VSR: 20, Task.AVSR: 10}
    batch = dataset[BatchPlan((3, 0, 1), step=8, num_label_tokens=totals, num_clips=12)]
    assert (batch.step, batch.num_label_tokens, batch.num_clips) == (8, totals, 12)
    assert batch.texts == ["text 3", "text 0", "text 1"]
    assert batch.snr_db == (math.inf,) * 3
    assert batch.inputs[Modality.VIDEO].lengths.tolist() == [3, 6, 4]
    assert batch.inputs[Modality.AUDIO].lengths.tolist() == [3 * 640, 6 * 640, 4 * 640]
    for modality, inputs in batch.inputs.items():
        assert not inputs.values[~inputs.mask()].any()
        for row, index in enumerate((3, 0, 1)):
            values = dataset.example(index).values(modality)
            assert values is not None
            assert torch.equal(inputs.values[row, : len(values)], values)


def test_a_batch_has_the_modalities_of_its_clips() -> None:
    clip = Clip("a", "text", "test", 1.0, audio=Path("a.wav"))
    batch = collate([Example(clip, torch.ones(5), None)] * 2, BatchPlan((0, 1), 0))
    assert set(batch.inputs) == {Modality.AUDIO}
    assert batch.supports(Task.ASR)
    assert not batch.supports(Task.AVSR)


def test_clips_of_different_modalities_cannot_share_a_batch() -> None:
    clip = Clip("a", "text", "test", 1.0, audio=Path("a.wav"))
    heard, seen = Example(clip, torch.ones(5), None), Example(replace(clip, id="b"), None, torch.ones(5, 8, 8))
    with pytest.raises(ValueError, match="only 1 of 2 clips of a batch have audio"):
        collate([heard, seen], BatchPlan((0, 1), 0))
