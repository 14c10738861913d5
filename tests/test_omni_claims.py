"""Experiment 002: arms of equal passes, files that give back what they were made of, and verdicts that follow."""

import importlib
import json
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest
import torch
from helpers_model import tiny_batch, tiny_model
from helpers_scores import COLUMNS, decoded

from omni_avsr.checkpoint import load_checkpoint, save_checkpoint
from omni_avsr.compression import compress
from omni_avsr.error_counts import count_errors, wer
from omni_avsr.types import Rates, Task

FOLDER = Path(__file__).resolve().parents[1] / "experiments" / "002-omni-claims"
SCRIPTS = ("run", "systems", "pictures", "summarize")


@pytest.fixture(scope="module")
def scripts() -> dict[str, ModuleType]:
    """The experiment's scripts, which find each other as they do when one of them is run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FOLDER))
        return {name: importlib.import_module(name) for name in SCRIPTS}


def test_every_family_of_models_has_the_same_passes(scripts: dict[str, ModuleType]) -> None:
    run = scripts["run"]
    passes: Counter[tuple[str, int]] = Counter()
    for arm in run.arms():
        passes[arm.family, arm.seed] += arm.passes
    longer = passes.pop(("long", 7))
    assert longer == 8 * run.PASSES // 3
    assert set(passes.values()) == {run.PASSES}
    assert len({arm.name for arm in run.arms()}) == len(run.arms())


def test_every_family_serves_the_eight_settings(scripts: dict[str, ModuleType]) -> None:
    run, systems = scripts["run"], scripts["systems"]
    for family in (*systems.OMNI, *systems.BASELINES):
        served = {
            (task, Rates(audio, video).label(task))
            for arm in run.arms()
            if arm.family == family
            for task in arm.tasks
            for audio in arm.audio_rates
            for video in arm.video_rates
        }
        assert served >= set(systems.SETTINGS), family


def test_an_arm_starts_from_projectors_of_its_own_rates_and_trains_what_its_tasks_use(
    scripts: dict[str, ModuleType],
) -> None:
    arm = next(arm for arm in scripts["run"].arms() if arm.name == "dedicated-asr-16")
    assert "projectors.audio.by_rate.16.*" in scripts["run"].start_parts(arm)
    assert "projectors.audio.by_rate.4.*" not in scripts["run"].start_parts(arm)
    stage = scripts["run"].joint_stage(arm)
    assert stage["objective"]["task_weights"] == {"asr": 1.0}
    assert stage["trainable"] == ["projectors.audio.*", "markers.*", "llm.*lora_*"]
    omni = next(arm for arm in scripts["run"].arms() if arm.name == "weight-2")
    assert scripts["run"].joint_stage(omni)["objective"]["task_weights"] == {"asr": 1.0, "vsr": 2.0, "avsr": 1.0}


@torch.no_grad()
def test_shared_projectors_pool_with_the_weights_of_the_trained_rate(
    scripts: dict[str, ModuleType], tmp_path: Path
) -> None:
    model = tiny_model(tmp_path, compression={"audio_rates": [2], "video_rates": [1]})
    save_checkpoint(tmp_path / "checkpoint", model, {}, {"domain": "none"})
    trained = load_checkpoint(tmp_path / "checkpoint")
    scripts["run"].share_projectors(tmp_path / "checkpoint", tmp_path / "pooled", (2, 5))
    pooled = load_checkpoint(tmp_path / "pooled")
    features = trained.encode(tiny_batch().inputs)
    for rate in (2, 5):
        tokens = pooled.tokens(features, Task.AVSR, Rates(rate, 1))
        for modality, found in tokens.items():
            own = compress(features[modality], Rates(rate, 1).of(modality), trained.config.compression)
            expected = trained.projectors[str(modality)](own, Rates(2, 1).of(modality))
            assert torch.equal(found.values, expected.values)


def write_arm(scripts: dict[str, ModuleType], folder: Path, family: str, wrong: dict[str, int], **more) -> None:
    """An arm's file with so many wrong words of 100 in each column, in babble three times as many."""
    hypotheses = [h for column, count in wrong.items() for h in decoded(column, count)]
    for level in more.pop("levels", ()):
        hypotheses += [h for c, n in wrong.items() if c[:3] != "VSR" for h in decoded(c, 3 * n, snr_db=level)]
    values = {"arm": family, "family": family, "seed": 7, "commit": "c", "date": "d", "llm_passes": 240}
    values |= {"num_steps": 80, "num_trainable": 100} | more | scripts["run"].compact(hypotheses)
    (folder / f"{values['arm']}-{values['seed']}.json").write_text(scripts["run"].to_lines(values))


def test_a_file_gives_back_the_errors_that_it_was_made_of(scripts: dict[str, ModuleType], tmp_path: Path) -> None:
    write_arm(scripts, tmp_path, "S", {"ASR 4": 7}, levels=(-5.0,))
    [values] = scripts["systems"].read_files(tmp_path)
    counts = scripts["systems"].counts_of(values)
    assert counts[Task.ASR, "4", None] == count_errors(decoded("ASR 4", 7))
    assert wer(counts[Task.ASR, "4", -5.0]) == 0.21


def test_the_average_is_the_mean_over_the_settings(scripts: dict[str, ModuleType], tmp_path: Path) -> None:
    write_arm(scripts, tmp_path, "S", {column: 3 * number for number, column in enumerate(COLUMNS)})
    [system] = scripts["systems"].read_systems(scripts["systems"].read_files(tmp_path))
    assert system.complete
    assert wer(system.average()) == pytest.approx(0.03 * 3.5)


def test_verdicts_follow_the_intervals(
    scripts: dict[str, ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = tmp_path / "results"
    results.mkdir()
    columns = {column: 10 + 5 * (column[:3] == "ASR") for column in COLUMNS}
    write_arm(scripts, results, "S", columns, levels=(-5.0,))
    write_arm(scripts, results, "T", columns, num_trainable=140)
    write_arm(scripts, results, "ST", columns, num_trainable=160)
    write_arm(scripts, results, "long", dict.fromkeys(COLUMNS, 2))
    for number, column in enumerate(COLUMNS):  # eight models, as one system
        write_arm(scripts, results, "dedicated", {column: 60}, arm=f"dedicated-{number}", llm_passes=30)
    write_arm(scripts, results, "pool", {"ASR 4": 1, "ASR 16": 90}, arm="pool-4")
    write_arm(scripts, results, "pool", {"ASR 4": 1, "ASR 16": 20}, arm="pool-all")
    write_arm(scripts, results, "per-task", {"ASR 4": 1}, arm="per-task-asr")  # its other models are still to come
    summarize = scripts["summarize"]
    report = summarize.summarize(results)
    assert [(s.family, s.num_models, s.passes) for s in report.systems] == [
        ("S", 1, 240), ("T", 1, 240), ("ST", 1, 240), ("dedicated", 8, 240), ("long", 1, 240)
    ]  # fmt: skip
    by_claim = {v.claim: v.verdict for v in summarize.judge(report)}
    assert list(by_claim.values())[:4] == ["holds", "fails", "not tested", "not tested"]
    assert next(v for c, v in by_claim.items() if c.startswith("3.")) == "holds by count"
    assert next(v for c, v in by_claim.items() if c.startswith("5.")) == "costs less here"  # nothing at all
    assert next(v for c, v in by_claim.items() if c.startswith("6. AVSR")) == "holds"
    assert list(by_claim.values())[-1] == "holds"
    monkeypatch.setattr(summarize, "HERE", tmp_path)
    summarize.main()
    table = (tmp_path / "table.md").read_text()
    assert "| 4 only | 1.0 " in table
    assert "dedicated: a model per task and rates | 7 | 8 | 240" in table
    assert json.loads((tmp_path / "table.json").read_text())["pooling"]["pool-4"]["16"] == 0.9
    assert len(list(tmp_path.glob("*.png"))) == 4
