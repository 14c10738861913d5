"""Two processes that share all weights between them train as one process does at the same global batch."""

import csv
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers_model import run_values, stage_tensors, stage_values, write_corpus
from helpers_ranks import attempt, start
from safetensors.torch import load_file

PLAIN, HALF = "plain", "half"
TWO = {"accelerator": "cpu", "devices": 2, "strategy": "sharded"}
NUM_STEPS = 4


def plain(folder: Path, output: Path, processes: int) -> dict[str, Any]:
    """An encoder stage, whose layers are trained whole, then projectors and hybrid adapters around a frozen LLM."""
    stages = {
        kind: stage_values(kind, NUM_STEPS, accumulation=2 // processes, validate_every=3)
        for kind in ("audio_ctc", "joint")
    }
    # Above every norm, so that Adam's moments tell whether gradients are summed up; and below every one, so that all
    # are clipped, by the norm over all shares.
    stages["audio_ctc"]["optimizer"]["clip_norm"] = 1e6
    stages["joint"]["optimizer"]["clip_norm"] = 0.1
    values = run_values(folder, folder / output, stages, resume_steps=2)
    values["model"]["adapters"]["dropout"] = 0.1
    return values | ({"trainer": TWO} if processes == 2 else {})


def half(folder: Path, output: Path, processes: int) -> dict[str, Any]:
    """A bfloat16 LLM under float32 adapters, stored features, and a forward pass that is run twice."""
    values = plain(folder, output, processes)
    del values["stages"]["audio_ctc"]
    values["stages"]["joint"] |= {"gradient_checkpointing": True, "feature_variants": 2}
    values["model"]["llm"]["dtype"] = "bfloat16"
    values["trainer"] = values["trainer"] | {"precision": "bf16-mixed"}
    return values


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of finished runs: ``plain-1``, ``plain-2``, and so on, by settings and processes."""
    folder = tmp_path_factory.mktemp("runs")
    write_corpus(folder / "corpus")
    attempts = [
        attempt(plain(folder, folder / "plain-1", 1)),
        # Killed in the joint stage's fourth step; the resume point is the one after two.
        attempt(plain(folder, folder / "plain-2", 2), die_in=4),
        attempt(plain(folder, folder / "plain-2", 2)),
        attempt(half(folder, folder / "half-1", 1)),
        attempt(half(folder, folder / "half-2", 2)),
    ]
    assert start(folder, attempts) == [[0], [-9, -9], [0, 0], [0], [0, 0]]
    return folder


def logged(output: Path, stage: str) -> dict[tuple[str, int], float]:
    """Every loss by its name and step; a resumed run logs some steps twice, to the same values."""
    losses: dict[tuple[str, int], float] = {}
    for path in sorted((output / "stages" / stage / "csv").glob("*/metrics.csv")):
        with path.open() as file:
            for row in csv.DictReader(file):
                for name in (name for name in row if name.endswith(("loss", "ctc")) and row[name]):
                    value = float(row[name])
                    assert losses.setdefault((name, int(row["step"])), value) == pytest.approx(value, rel=1e-5)
    return losses


@pytest.mark.slow
@pytest.mark.parametrize("settings", ["plain", "half"])
def test_losses_of_every_step_are_those_of_one_process(settings: str, runs: Path) -> None:
    stages = list(stage_tensors(runs / f"{settings}-1"))
    assert len(stages) == {"plain": 2, "half": 1}[settings]
    for stage in stages:
        expected = logged(runs / f"{settings}-1", stage)
        assert {step for _, step in expected} == set(range(1, NUM_STEPS + 1))
        assert logged(runs / f"{settings}-2", stage) == pytest.approx(expected, rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("settings", ["plain", "half"])
def test_trained_tensors_are_those_of_one_process_also_after_a_kill(settings: str, runs: Path) -> None:
    expected, found = (stage_tensors(runs / f"{settings}-{processes}") for processes in (1, 2))
    assert list(found) == list(expected)
    for stage, tensors in expected.items():
        assert found[stage].keys() == tensors.keys()
        for name, value in tensors.items():
            torch.testing.assert_close(found[stage][name], value, rtol=1e-5, atol=1e-6, msg=f"{stage} {name}")


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["0-audio_ctc", "1-joint"])
def test_weights_and_moments_of_the_resume_point_are_those_of_one_process(stage: str, runs: Path) -> None:
    expected, found = (
        torch.load(runs / f"plain-{processes}" / "stages" / stage / "resume.pt", weights_only=True)
        for processes in (1, 2)
    )
    assert found["step"] == expected["step"] == NUM_STEPS
    assert found["optimizer"]["state"].keys() == expected["optimizer"]["state"].keys()
    for part in ("trained", "optimizer"):
        torch.testing.assert_close(found[part], expected[part], rtol=1e-4, atol=1e-7)


@pytest.mark.slow
def test_checkpoint_is_that_of_one_process(runs: Path) -> None:
    one, two = runs / "plain-1" / "checkpoint", runs / "plain-2" / "checkpoint"
    files = sorted(path.relative_to(one) for path in one.rglob("*"))
    assert sorted(path.relative_to(two) for path in two.rglob("*")) == files
    tensors = [file for file in files if file.suffix == ".safetensors"]
    assert tensors
    for file in tensors:
        # As a checkpoint stores them: float16.
        torch.testing.assert_close(load_file(two / file), load_file(one / file), rtol=1e-3, atol=1e-6)
