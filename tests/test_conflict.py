"""Video that contradicts the audio: where it comes from, how much of it there is, and that only AVSR sees it."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers_model import tiny_batch, tiny_model

from omni_avsr.model import OmniAVSR
from omni_avsr.objectives.conflict import with_conflicts
from omni_avsr.objectives.recognition import RecognitionObjective
from omni_avsr.stages import ConflictConfig, RecognitionObjectiveConfig
from omni_avsr.types import Clip, Features, Task

LENGTHS = (9, 4, 7, 9)


def features() -> Features:
    """Each step tells its row and its place."""
    values = torch.stack([100.0 * row + torch.arange(9) for row in range(len(LENGTHS))])[..., None]
    return Features(values, torch.tensor(LENGTHS))


def clips(number: int = len(LENGTHS)) -> list[Clip]:
    return [Clip(f"clip{row}", "a", "train", 1.0, Path("a"), Path("v"), 9) for row in range(number)]


def test_a_stretch_comes_from_the_same_time_of_one_other_clip() -> None:
    before = features()
    for step in range(30):
        after = with_conflicts(before, clips(), [1.0] * 4, 3, seed=1, step=step)
        assert torch.equal(after.lengths, before.lengths)
        for row, length in enumerate(LENGTHS):
            changed = (after.values[row] != before.values[row])[:, 0].nonzero()[:, 0].tolist()
            assert 1 <= len(changed) <= 3
            assert changed == list(range(changed[0], changed[-1] + 1))
            assert changed[-1] < length
            values = after.values[row, changed, 0]
            assert torch.equal(values % 100, torch.tensor(changed, dtype=torch.float))
            [source] = set((values // 100).int().tolist())
            assert source != row
            assert changed[-1] < LENGTHS[source]
    assert torch.equal(before.values, features().values)


def test_the_share_is_kept_and_follows_the_seed_and_the_step() -> None:
    def changed(share: float, seed: int, step: int) -> list[bool]:
        after = with_conflicts(features(), clips(), [share] * 4, 3, seed, step).values
        return (after != features().values).flatten(1).any(1).tolist()

    draws = [changed(0.25, 1, step) for step in range(200)]
    assert 0.2 < sum(map(sum, draws)) / 800 < 0.3
    assert [changed(0.25, 1, step) for step in range(200)] == draws
    assert [changed(0.25, 2, step) for step in range(200)] != draws


def test_a_clip_alone_has_no_other() -> None:
    one = Features(features().values[:1], torch.tensor([9]))
    assert with_conflicts(one, clips(1), [1.0], 3, 0, 0) is one


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> OmniAVSR:
    return tiny_model(tmp_path_factory.mktemp("models"))


def test_only_avsr_sees_conflicts_and_only_in_training(model: OmniAVSR) -> None:
    weights = dict.fromkeys(Task, 1.0)
    plain = RecognitionObjective(RecognitionObjectiveConfig(task_weights=weights), 3, 8)
    conflicting = RecognitionObjective(
        RecognitionObjectiveConfig(task_weights=weights, conflict=ConflictConfig(share=1.0, seconds=0.2)), 3, 8
    )
    batch = replace(tiny_batch(), step=2)
    expected, found = plain(model, batch).figures, conflicting(model, batch).figures
    for task in (Task.ASR, Task.VSR):
        assert float(found[f"{task}_loss"]) == float(expected[f"{task}_loss"])
    assert float(found["avsr_loss"]) != float(expected["avsr_loss"])
    conflicting.eval()
    assert float(conflicting(model, batch).figures["avsr_loss"]) == float(expected["avsr_loss"])


def test_each_row_has_its_own_share() -> None:
    for step in range(20):
        after = with_conflicts(features(), clips(), [0.0, 1.0, 0.0, 1.0], 3, 1, step).values
        assert (after != features().values).flatten(1).any(1).tolist() == [False, True, False, True]


def test_clips_in_loud_noise_have_no_conflict(model: OmniAVSR) -> None:
    weights = dict.fromkeys(Task, 1.0)
    plain = RecognitionObjective(RecognitionObjectiveConfig(task_weights=weights), 3, 8)
    conflicting = RecognitionObjective(
        RecognitionObjectiveConfig(
            task_weights=weights, conflict=ConflictConfig(share=1.0, seconds=0.2, min_snr_db=5.0)
        ),
        3,
        8,
    )
    batch = replace(tiny_batch(), step=2)
    expected = float(plain(model, batch).figures["avsr_loss"])
    assert float(conflicting(model, replace(batch, snr_db=(4.0, -5.0, 0.0))).figures["avsr_loss"]) == expected
    for levels in ((5.0, -5.0, -5.0), (-5.0, -5.0, math.inf)):
        assert float(conflicting(model, replace(batch, snr_db=levels)).figures["avsr_loss"]) != expected
