"""What clips are heard and seen with under a condition: another clip's inputs, noise, and lengths that stay."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from helpers_checkpoint import save_tiny_checkpoint, write_test_set
from torch import Tensor

from omni_avsr.conditions import SHUFFLED, SWAPPED, ConditionInputs
from omni_avsr.config import from_mapping
from omni_avsr.data.noise import NoiseSource
from omni_avsr.data.noise_recording import MemoryRecording
from omni_avsr.evaluation import EvaluateConfig, evaluate
from omni_avsr.hypotheses import read_hypotheses
from omni_avsr.types import MATCHED, Clip, Task

SECONDS = {"a": 1.0, "b": 3.0, "c": 1.2, "d": 1.1, "e": 3.1}
TEXTS = {"a": "one", "b": "two", "c": "three", "d": "one", "e": "two"}


class Reader:
    """Every sample and pixel tells which clip it is of."""

    def waveform(self, clip: Clip) -> Tensor | None:
        return torch.full((round(clip.seconds * 10),), float(ord(clip.id)))

    def video(self, clip: Clip) -> Tensor | None:
        if clip.id == "c":
            raise ValueError("corrupt")
        return torch.full((round(clip.seconds * 5), 2, 2), ord(clip.id), dtype=torch.uint8)


def clips() -> list[Clip]:
    return [Clip(name, TEXTS[name], "test", s, Path("a"), Path("v"), 1) for name, s in SECONDS.items()]


def inputs(found: Sequence[Clip] | None = None) -> ConditionInputs:
    noise = NoiseSource([MemoryRecording(torch.randn(100, generator=torch.Generator().manual_seed(1)))])
    return ConditionInputs(clips() if found is None else found, Reader(), noise, seed=3)


def heard(index: int, condition: str) -> tuple[str, int]:
    own = torch.zeros(round(list(SECONDS.values())[index] * 10))
    waveform = inputs().waveform(index, own, None, condition)
    return chr(int(waveform.max())) if waveform.any() else "own", len(waveform)


def seen(index: int, condition: str) -> tuple[str, int]:
    own = torch.zeros(round(list(SECONDS.values())[index] * 5), 2, 2, dtype=torch.uint8)
    video = inputs().video(index, own, condition)
    return chr(int(video.max())) if video.any() else "own", len(video)


def test_matched_clips_have_their_own_inputs_and_swapped_ones_their_own_sound() -> None:
    for index in range(len(SECONDS)):
        assert heard(index, MATCHED)[0] == seen(index, MATCHED)[0] == heard(index, SWAPPED)[0] == "own"


def test_swapped_video_is_the_next_clips_that_has_one_and_says_something_else() -> None:
    assert [seen(index, SWAPPED)[0] for index in range(len(SECONDS))] == ["b", "d", "d", "e", "a"]


def test_shuffled_inputs_are_those_of_the_clip_of_the_closest_length_that_says_something_else() -> None:
    assert [heard(index, SHUFFLED)[0] for index in range(len(SECONDS))] == ["c", "c", "d", "c", "c"]
    # The video of c cannot be read; it is passed over.
    assert [seen(index, SHUFFLED)[0] for index in range(len(SECONDS))] == ["b", "d", "d", "b", "d"]


@pytest.mark.parametrize("condition", [MATCHED, SWAPPED, SHUFFLED])
def test_inputs_keep_their_lengths(condition: str) -> None:
    for index, seconds in enumerate(SECONDS.values()):
        assert heard(index, condition)[1] == round(seconds * 10)
        assert seen(index, condition)[1] == round(seconds * 5)


def test_noise_comes_on_top_and_depends_on_the_clips_name_alone() -> None:
    own = torch.sin(torch.arange(10.0))
    noisy = inputs().waveform(0, own, 0.0, MATCHED)
    assert not torch.equal(noisy, own)
    assert torch.equal(inputs(clips()[:1]).waveform(0, own, 0.0, MATCHED), noisy)
    assert not torch.equal(inputs().waveform(1, own, 0.0, MATCHED), noisy)


def test_without_another_text_there_is_nothing_to_put_in() -> None:
    same = [clip for clip in clips() if clip.text == "one"]
    with pytest.raises(ValueError, match="no other clip than a has video of another text to put in"):
        inputs(same).video(0, torch.zeros(5, 2, 2), SWAPPED)


def test_shuffling_adds_every_task_at_every_rate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_tiny_checkpoint(tmp_path)
    manifest = write_test_set(tmp_path / "corpus")
    values = {
        "checkpoint": tmp_path / "checkpoint",
        "data": {"test_sets": {"tiny": {"manifest": manifest}}},
        "output": tmp_path / "out",
        "shuffle_inputs": True,
        "decode": {"max_new_tokens": 4},
    }
    report = evaluate(from_mapping(EvaluateConfig, values))
    shuffled = [s.setting for s in report.scores["tiny"] if s.setting.condition == SHUFFLED]
    matched = [s.setting for s in report.scores["tiny"] if s.setting.condition == MATCHED]
    assert [(s.task, s.rates) for s in shuffled] == [(s.task, s.rates) for s in matched]
    assert {s.task for s in shuffled} == set(Task)
    texts = {
        (h.id, h.task, h.rates, h.condition): h.text for h in read_hypotheses(tmp_path / "out/hypotheses-tiny.jsonl")
    }
    changed = [texts[key] != texts[*key[:3], MATCHED] for key in texts if key[3] == SHUFFLED]
    assert any(changed)
    assert "tiny, clean, shuffled inputs" in (tmp_path / "out" / "table.md").read_text()
