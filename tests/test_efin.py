"""Experiment 003: arms of equal tries, points of one run, and comparisons that follow from curves."""

import importlib
import json
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from helpers_model import run_values, stage_values, write_corpus

from omni_avsr.config import from_mapping
from omni_avsr.data.manifest import read_manifest
from omni_avsr.media import write_audio
from omni_avsr.run import RunConfig
from omni_avsr.types import Task

FOLDER = Path(__file__).resolve().parents[1] / "experiments" / "003-efin"
SCRIPTS = ("arms", "curves", "run", "summarize")


@pytest.fixture(scope="module")
def scripts() -> dict[str, ModuleType]:
    """The experiment's scripts, which find each other as they do when one of them is run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FOLDER))
        others = {name: sys.modules.pop(name, None) for name in SCRIPTS}  # other experiments have a run.py too
        own = {name: importlib.import_module(name) for name in SCRIPTS}
        for name, module in others.items():
            del sys.modules[name]
            if module is not None:
                sys.modules[name] = module
    return own


def test_every_strategy_has_the_same_tries_and_points(scripts: dict[str, ModuleType]) -> None:
    arms = scripts["arms"].tries()
    assert len({arm.name for arm in arms}) == len(arms)
    assert set(Counter((arm.strategy, arm.task) for arm in arms).values()) == {3}
    points = scripts["arms"].POINTS
    assert all(arm.points == points[arm.task][arm.strategy][:-1] for arm in arms)
    assert len({arm.points for arm in arms if arm.task is Task.ASR}) == 1
    assert all(len(row) >= 6 for row in points[Task.ASR].values())


def test_what_follows_has_the_rate_that_was_chosen(scripts: dict[str, ModuleType]) -> None:
    arms = scripts["arms"].follow_ups({("efin", Task.ASR): 3.0, ("joint", Task.VSR): 1.0})
    assert {(arm.strategy, arm.task, arm.lr_scale) for arm in arms[2:]} == {("efin", Task.ASR, 3.0)}
    # The tries that were best go on under their names to their last points.
    assert [(arm.name, arm.points[-1]) for arm in arms[:2]] == [("efin-asr-x3-7", 640), ("joint-vsr-x1-7", 1250)]
    assert [arm.points for arm in arms if arm.decayed] == [(640,)]
    assert [arm.name for arm in arms if not arm.usual_split] == [
        "efin-asr-encoder-15-x3-7",
        "efin-asr-encoder-200-x3-7",
    ]


@pytest.mark.parametrize("strategy", ["joint", "efin"])
@pytest.mark.parametrize("task", [Task.ASR, Task.VSR])
def test_an_arm_composes_into_a_run(scripts: dict[str, ModuleType], tmp_path: Path, strategy: str, task: Task) -> None:
    folders = scripts["run"].Folders(tmp_path, tmp_path, tmp_path)
    [arm] = [a for a in scripts["arms"].tries() if (a.strategy, a.task, a.lr_scale) == (strategy, task, 3.0)]
    config = from_mapping(RunConfig, scripts["run"].point_values(arm, 40, folders))
    assert config.model.tasks[-1] is task
    assert all(set(other.modalities) <= set(task.modalities) for other in config.model.tasks)
    *leading, last = config.stages.values()
    assert last.num_steps == 40
    assert [stage.num_steps for stage in leading[:-1]] == [arm.encoder_steps] * len(leading[:-1])
    for name, stage in config.stages.items():
        rate = {"audio_encoder": 3e-4, "joint": 3e-4}.get(name, 1e-3)
        assert stage.optimizer.lr == pytest.approx(3 * rate)
        assert stage.optimizer.schedule == "constant"
        assert stage.augment.snr_db == (() if name == "video_encoder" else scripts["arms"].TRAINING_SNR_DB)


def tiny_values(folder: Path) -> dict[str, Any]:
    """ASR on tiny models: an encoder stage and one through the LLM."""
    lora = stage_values("joint", 2, objective={"kind": "recognition", "task_weights": {"asr": 1.0}})
    values = run_values(folder, folder / "out", {"audio_encoder": stage_values("audio_ctc", 2), "lora": lora})
    values["model"] |= {"video_encoder": None, "compression": {"audio_rates": [2], "video_rates": [1]}}
    manifest = values["data"]["manifests"][0]
    values["data"]["test_sets"] = {"grid_s1": {"manifest": manifest, "split": "validation", "noisy": True}}
    values["data"]["test_noise"] = str(folder / "test-noise.wav")
    return values | {"checkpoint_dtype": "float32"}


def test_an_arm_is_trained_and_scored_along_its_curve(
    scripts: dict[str, ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = scripts["run"]
    corpus = write_corpus(tmp_path / "corpus")
    write_audio(tmp_path / "test-noise.wav", 0.1 * np.random.default_rng(1).standard_normal(9000))
    monkeypatch.setattr(script, "base_values", lambda arm, folders: tiny_values(tmp_path))
    folders = script.Folders(tmp_path, tmp_path, tmp_path / "runs", tmp_path / "results")
    folders.runs.mkdir()
    arm = scripts["arms"].Arm("efin", Task.ASR, 1.0, 7, (1, 3), 2)
    script.train_and_score(arm, folders)
    assert script.missing(arm, folders) == []
    first, second = scripts["curves"].read_lines(folders.results)
    assert (first["steps"], second["steps"]) == (1, 3)
    # The encoder was trained once; the stage after it went on.
    assert first["flops_by_stage"]["audio_encoder"] == second["flops_by_stage"]["audio_encoder"] > 0
    assert 0 < first["flops_by_stage"]["lora"] < second["flops_by_stage"]["lora"]
    # One batch holds two clips of the ten at most.
    train = [clip.seconds for clip in read_manifest(corpus) if clip.split == "train"]
    assert 0 < second["hours_by_stage"]["lora"] * 3600 <= 6 * max(train)
    assert second["data_hours"] * 3600 == pytest.approx(sum(train))
    assert [(row["split"], row["snr_db"]) for row in second["hypotheses"]] == [
        ("validation", None), ("validation", 5.0), ("test", None), ("test", 5.0)
    ]  # fmt: skip


def line(strategy: str, steps: int, flops: float, wrong: int, **more: Any) -> dict[str, Any]:
    """A point with so many wrong letters of two hundred, in ten clips."""
    letters = ["b" if number < wrong else "a" for number in range(200)]
    texts = ["".join(letters[start::10]) for start in range(10)]
    rows = [
        {"split": split, "snr_db": level, "ids": [str(n) for n in range(10)], "references": ["a" * 20] * 10}
        | {"texts": texts}
        for split in ("validation", "test")
        for level in (None, 5.0)
    ]
    return {
        "arm": strategy, "strategy": strategy, "task": "asr", "lr_scale": 1.0, "seed": 7, "decayed": False,
        "usual_split": True, "encoder_steps": 50, "steps": steps, "commit": "c", "date": "d",
        "flops_by_stage": {"lora": flops}, "hours_by_stage": {"lora": 1.0},
        "encoder_parameters": 8, "llm_parameters": 9, "data_hours": 0.5, "hypotheses": rows,
    } | more  # fmt: skip


def tried(scripts: dict[str, ModuleType], strategy: str, cost: float, scale: float) -> list[dict[str, Any]]:
    """All tries of a strategy: errors halve with four times the compute, at the learning rate ``scale``; others err."""
    return [
        line(strategy, steps, cost * steps, wrong if tried == scale else 150, lr_scale=tried)
        for tried in scripts["arms"].LR_SCALES
        for steps, wrong in zip(scripts["arms"].POINTS[Task.ASR][strategy], (113, 80, 57, 40, 28, 20), strict=True)
    ]


def test_the_learning_rate_is_that_of_the_lowest_error_on_validation(scripts: dict[str, ModuleType]) -> None:
    lines = [*tried(scripts, "efin", 1e12, 3.0), *tried(scripts, "joint", 1e12, 1.0)]
    choose = scripts["curves"].choose_scales
    assert choose(lines) == {("efin", Task.ASR): 3.0, ("joint", Task.ASR): 1.0}
    assert choose(lines[1:]) == {("joint", Task.ASR): 1.0}  # one point is still to come


def test_half_the_compute_for_the_same_errors_is_found(scripts: dict[str, ModuleType]) -> None:
    lines = [*tried(scripts, "efin", 0.5e12, 3.0), *tried(scripts, "joint", 1e12, 1.0)]
    curves = scripts["curves"]
    own = curves.chosen_lines(lines, curves.choose_scales(lines), Task.ASR)
    found = curves.make_curves(own, "test", 5.0, "characters")
    result = curves.compare(found["efin"], found["joint"])
    share, interval = result.share
    assert share == pytest.approx(0.5)
    assert interval.low <= share <= interval.high
    assert not result.share_is_bound
    assert list(result.reductions) == [2e13, 4e13, 8e13, 1.6e14, 3.2e14]
    assert [value for value, _ in result.reductions.values()] == pytest.approx([1 - 2**-0.5] * 5, abs=0.02)
    back = curves.compare(found["joint"], found["efin"])
    assert back.share[0] == pytest.approx(2.0)


def test_seeds_are_drawn_with_all_their_points(scripts: dict[str, ModuleType]) -> None:
    """Two seeds, of which the second has no last point."""
    curves = scripts["curves"]
    errors = np.array([[[4.0, 0.0], [8.0, 2.0]], [[2.0, 2.0], [np.nan, np.nan]]])
    lengths = np.where(np.isnan(errors), np.nan, 10.0)
    curve = curves.Curve("efin", np.array([1.0, 2.0]), errors, lengths)
    assert curve.rates().tolist() == pytest.approx([14 / 40, 4 / 20])
    both, second = np.array([1.0, 1.0]), np.array([0.0, 2.0])
    first_clip = np.array([2.0, 0.0])
    found = curve.rates(curves.Draws(np.array([both, first_clip]), np.array([second, second])))
    assert found.tolist() == [pytest.approx([10 / 20, 4 / 20]), pytest.approx([8 / 10, 2 / 10])]
    same = curves.Curve("joint", curve.flops, errors[:, :1], lengths[:, :1])
    wide = curves.compare(same, curve).reductions[1.0][1]
    assert wide.high - wide.low > 0.4


def test_an_error_that_is_never_reached_has_no_share(scripts: dict[str, ModuleType]) -> None:
    flops, rates = np.array([1.0, 2.0, 4.0]), np.array([0.4, 0.2, 0.3])
    compute_for = scripts["curves"].compute_for
    assert compute_for(0.1, flops, rates) == float("inf")
    assert compute_for(0.5, flops, rates) == 1.0
    assert compute_for(0.2, flops, rates) == pytest.approx(2.0)
    assert 1 < compute_for(0.3, flops, rates) < 2


def test_tables_laws_and_plots_are_written(scripts: dict[str, ModuleType], tmp_path: Path) -> None:
    results = tmp_path / "results"
    results.mkdir()
    lines = [*tried(scripts, "efin", 0.5e12, 3.0), *tried(scripts, "joint", 1e12, 1.0)]
    lines += [row | {"usual_split": False, "encoder_steps": 15} for row in tried(scripts, "efin", 2e12, 3.0)[12:]]
    (results / "all.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lines))
    scripts["summarize"].summarize(results, tmp_path)
    table = (tmp_path / "table.md").read_text()
    assert "| efin | joint | 50.0 % [" in table
    assert "| efin, 15 encoder steps | joint | 200.0 % [" in table
    assert "| efin | a C^-b | 0.5" in table
    assert (tmp_path / "curves-asr.png").is_file()
    assert len((tmp_path / "asr" / "scaling.jsonl").read_text().splitlines()) == 18
    assert (tmp_path / "asr" / "laws.json").is_file()


def test_without_results_there_is_a_table_that_says_nothing(scripts: dict[str, ModuleType], tmp_path: Path) -> None:
    scripts["summarize"].summarize(tmp_path / "none", tmp_path)
    assert "##" not in (tmp_path / "table.md").read_text()
