"""Batch plans: every clip once, inside the budget, the same from any start and on any number of ranks."""

import itertools
import random
from collections import Counter
from collections.abc import Sequence

import pytest

from omni_avsr.data.batching import BatchingConfig, BatchPlan, ClipSize, PlanSampler, plan_epoch
from omni_avsr.types import Modality, Task

AUDIO, VIDEO, BOTH = (Modality.AUDIO,), (Modality.VIDEO,), (Modality.AUDIO, Modality.VIDEO)
CONFIG = BatchingConfig(max_clips=4, max_frames=300, accumulation=1)


def clip_sizes(count: int = 101, longest: int = 140, seed: int = 0) -> list[ClipSize]:
    draw = random.Random(seed)
    kinds = [BOTH, BOTH, BOTH, AUDIO, VIDEO]
    return [ClipSize(draw.randint(1, longest), draw.randint(1, 20), draw.choice(kinds)) for _ in range(count)]


def padded_frames(batch: Sequence[int], sizes: Sequence[ClipSize]) -> int:
    return len(batch) * max(sizes[index].frames for index in batch)


def plans(
    sizes: Sequence[ClipSize], num_steps: int, rank: int = 0, world_size: int = 1, accumulation: int = 1, start: int = 0
) -> list[BatchPlan]:
    config = BatchingConfig(max_clips=4, max_frames=300, accumulation=accumulation)
    sampler = PlanSampler(sizes, config, num_steps, 7, rank, world_size)
    sampler.start_step = start
    return list(sampler)


@pytest.mark.parametrize("epoch", range(3))
def test_every_clip_is_in_an_epoch_exactly_once(epoch: int) -> None:
    sizes = clip_sizes()
    planned = [index for batch in plan_epoch(sizes, CONFIG, 7, epoch) for index in batch]
    assert sorted(planned) == list(range(len(sizes)))


@pytest.mark.parametrize(("max_clips", "max_frames"), [(4, 300), (100, 300), (4, 100_000), (1, 300)])
def test_batches_hold_the_budget(max_clips: int, max_frames: int) -> None:
    sizes = clip_sizes()
    batches = plan_epoch(sizes, BatchingConfig(max_clips=max_clips, max_frames=max_frames), 7, 0)
    assert max(map(len, batches)) <= max_clips
    assert max(padded_frames(batch, sizes) for batch in batches) <= max_frames


def test_batches_use_the_budget() -> None:
    sizes = [ClipSize(75, 5, BOTH)] * 40
    by_clips, by_frames = BatchingConfig(max_clips=4), BatchingConfig(max_clips=100, max_frames=300)
    assert [len(batch) for batch in plan_epoch(sizes, by_clips, 7, 0)] == [4] * 10
    assert [len(batch) for batch in plan_epoch(sizes, by_frames, 7, 0)] == [4] * 10


def test_a_clip_over_the_budget_gets_a_batch_of_its_own() -> None:
    sizes = [*clip_sizes(20), ClipSize(1000, 5, BOTH), ClipSize(2000, 5, BOTH)]
    batches = plan_epoch(sizes, CONFIG, 7, 0)
    assert (20,) in batches
    assert (21,) in batches


def test_similar_lengths_stand_together() -> None:
    sizes = [ClipSize(frames, 5, BOTH) for frames in clip_frames()]
    batches = plan_epoch(sizes, BatchingConfig(max_clips=8, max_frames=10_000), 7, 0)
    padded = sum(padded_frames(batch, sizes) for batch in batches)
    assert padded < 1.1 * sum(size.frames for size in sizes)


def clip_frames() -> list[int]:
    draw = random.Random(1)
    return [draw.randint(10, 200) for _ in range(500)]


def test_batches_are_not_in_order_of_length() -> None:
    sizes = [ClipSize(frames, 5, BOTH) for frames in clip_frames()]
    longest = [max(sizes[index].frames for index in batch) for batch in plan_epoch(sizes, CONFIG, 7, 0)]
    rises = sum(a < b for a, b in itertools.pairwise(longest))
    assert 0.35 < rises / len(longest) < 0.65


def test_composition_differs_between_epochs_and_seeds_and_repeats_for_the_same() -> None:
    sizes = clip_sizes(600)

    def composition(seed: int, epoch: int) -> set[frozenset[int]]:
        return set(map(frozenset, plan_epoch(sizes, BatchingConfig(max_clips=4, max_frames=300), seed, epoch)))

    first = composition(7, 0)
    assert plan_epoch(sizes, CONFIG, 7, 0) == plan_epoch(sizes, CONFIG, 7, 0)
    for other in (composition(7, 1), composition(8, 0)):
        assert len(first & other) < len(first) / 4


def test_modalities_never_share_a_batch() -> None:
    sizes = clip_sizes()
    for batch in plan_epoch(sizes, CONFIG, 7, 0):
        assert len({sizes[index].modalities for index in batch}) == 1


def test_a_run_covers_epoch_after_epoch_without_loss() -> None:
    sizes = clip_sizes(30)
    per_epoch = [len(plan_epoch(sizes, CONFIG, 7, epoch)) for epoch in range(3)]
    run = plans(sizes, sum(per_epoch))
    assert [plan.step for plan in run] == list(range(sum(per_epoch)))
    assert Counter(index for plan in run for index in plan.indices) == dict.fromkeys(range(30), 3)


def test_epochs_end_in_the_middle_of_a_step_without_loss() -> None:
    sizes = clip_sizes(30)
    batches = [batch for epoch in range(4) for batch in plan_epoch(sizes, CONFIG, 7, epoch)]
    run = plans(sizes, len(batches) // 5, accumulation=5)
    assert [plan.indices for plan in run] == batches[: len(run)]
    assert [plan.step for plan in run] == [place // 5 for place in range(len(run))]


def test_token_totals_are_those_of_the_global_batch() -> None:
    sizes = clip_sizes(60)
    run = plans(sizes, 12, accumulation=4)
    for step, group in itertools.groupby(run, key=lambda plan: plan.step):
        micro = list(group)
        used = [sizes[index] for plan in micro for index in plan.indices]
        expected = {
            Task.ASR: sum(size.label_tokens for size in used if Modality.AUDIO in size.modalities),
            Task.VSR: sum(size.label_tokens for size in used if Modality.VIDEO in size.modalities),
            Task.AVSR: sum(size.label_tokens for size in used if size.modalities == BOTH),
        }
        assert all(plan.num_label_tokens == expected for plan in micro), step
        assert all(plan.num_clips == len(used) for plan in micro), step


def test_two_ranks_share_the_stream_of_one() -> None:
    sizes = clip_sizes(60)
    alone = plans(sizes, 10, accumulation=4)
    first, second = (plans(sizes, 10, rank, world_size=2, accumulation=2) for rank in (0, 1))
    assert len(first) == len(second) == 20
    together = [plan for pair in zip(first, second, strict=True) for plan in pair]
    assert together == alone


def test_ranks_see_different_clips_of_a_step() -> None:
    first, second = (plans(clip_sizes(60), 3, rank, world_size=2) for rank in (0, 1))
    for mine, theirs in zip(first, second, strict=True):
        assert mine.step == theirs.step
        assert not set(mine.indices) & set(theirs.indices)


@pytest.mark.parametrize("start", [0, 1, 9, 19, 20])
@pytest.mark.parametrize(("rank", "world_size"), [(0, 1), (1, 2)])
def test_a_later_start_continues_exactly_the_unbroken_run(start: int, rank: int, world_size: int) -> None:
    sizes = clip_sizes(30)
    unbroken = plans(sizes, 20, rank, world_size, accumulation=3)
    assert plans(sizes, 20, rank, world_size, accumulation=3, start=start) == unbroken[3 * start :]


def test_a_sampler_can_be_read_twice() -> None:
    sampler = PlanSampler(clip_sizes(30), CONFIG, 5, seed=7)
    assert list(sampler) == list(sampler)


def test_no_clips_are_an_error_at_once() -> None:
    with pytest.raises(ValueError, match="no clips"):
        PlanSampler([], CONFIG, 5, seed=7)
