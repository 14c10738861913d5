"""A run of all stages on a tiny corpus: what it leaves behind, and how it goes on."""

import csv
import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers_model import STAGES, all_stages, run_config, run_values, stage_tensors, stage_values, write_corpus
from lightning import Trainer

from omni_avsr.checkpoint import load_checkpoint, save_tensors
from omni_avsr.config import from_mapping
from omni_avsr.data.batching import ClipSize
from omni_avsr.data.noise_set import noise_marks
from omni_avsr.media import write_audio
from omni_avsr.resume import ResumePoint
from omni_avsr.run import RunConfig, run
from omni_avsr.stage_data import whole_plans
from omni_avsr.types import Modality, RunRecord, Task


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("run")
    write_corpus(made / "corpus")
    return made


@pytest.fixture(scope="module")
def finished(folder: Path) -> RunConfig:
    """A run of all stages, two steps each."""
    chosen = all_stages()
    chosen["projector"]["feature_variants"] = chosen["joint"]["feature_variants"] = 2
    config = run_config(folder, folder / "finished", chosen, domain="noise", checkpoint_dtype="float32")
    assert run(config) == config.output
    return config


def test_every_stage_leaves_its_tensors_resume_point_and_record(finished: RunConfig) -> None:
    folders = sorted(path.name for path in (finished.output / "stages").iterdir())
    assert folders == [f"{number}-{name}" for number, name in enumerate(STAGES)]
    for name in folders:
        folder = finished.output / "stages" / name
        assert not list(folder.glob("*partial*"))
        point = ResumePoint.load(folder / "resume.pt")
        assert point is not None
        assert point.step == 2
        record = json.loads((folder / "record.json").read_text())
        assert (record["stage"], record["steps"]) == (name.partition("-")[2], 2)
        assert record["num_trainable"] > 0
        assert 0 < record["metrics"]["validation/loss"] < 100
        assert RunRecord(**record).flops["backward"] != {}
        del record["flops"]
        assert RunRecord(**record).flops == {}  # one of before FLOPs were counted


def test_figures_of_training_and_validation_are_in_the_csv(finished: RunConfig) -> None:
    with (finished.output / "stages" / "3-joint" / "csv" / "from-step-0" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    trained = [row for row in rows if row["train/loss"]]
    assert [row["step"] for row in trained] == ["1", "2"]
    for row in trained:
        tasks = [float(row[f"train/{task}_loss"]) for task in Task]
        assert float(row["train/loss"]) == pytest.approx((tasks[0] + 1.5 * tasks[1] + tasks[2]) / 3, rel=1e-5)
        assert 0 <= float(row["train/padding"]) < 1
    readings = {key for row in rows for key, value in row.items() if value and key.endswith("_wer")}
    # Every task at its lowest and its highest rates.
    assert readings == {
        f"validation/{reading}_wer" for reading in ("asr_2", "asr_5", "vsr_1", "vsr_3", "avsr_2_1", "avsr_5_3")
    }


def test_later_stages_start_from_what_earlier_ones_trained(finished: RunConfig, tmp_path: Path) -> None:
    trained = stage_tensors(finished.output)
    assert {name.split(".")[0] for name in trained["2-projector"]} == {"projectors", "markers"}
    shutil.copytree(finished.output / "stages", tmp_path / "stages", ignore=shutil.ignore_patterns("3-joint"))
    shifted = {name: value + 1 for name, value in trained["2-projector"].items()}
    save_tensors(tmp_path / "stages" / "2-projector" / "trained.safetensors", shifted)
    run(replace(finished, output=tmp_path))
    # Two steps of Adam cannot carry a weight further than this from where it was.
    reach = 2 * 2 * finished.stages["joint"].optimizer.lr
    for name, value in shifted.items():
        assert (stage_tensors(tmp_path)["3-joint"][name] - value).abs().max() < reach


def test_the_checkpoint_is_the_model_after_all_stages(finished: RunConfig) -> None:
    model = load_checkpoint(finished.output / "checkpoint")
    state = model.state_dict()
    latest = {name: value for tensors in stage_tensors(finished.output).values() for name, value in tensors.items()}
    assert [name for name, value in latest.items() if not torch.equal(state[name], value)] == []
    assert any("running_mean" in name for name in latest)
    training = json.loads((finished.output / "checkpoint" / "config.json").read_text())["training"]
    assert training["domain"] == "noise"
    assert training["longest_clip_seconds"] == 11 / 25
    noise = finished.data.read_noise()
    assert training.get("noise") == (noise_marks(noise.recordings) if noise else None)
    assert [record["stage"] for record in training["records"]] == list(STAGES)


def files(folder: Path) -> Mapping[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_a_second_call_does_nothing(finished: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Trainer, "fit", lambda *_: pytest.fail("trained again"))
    before = files(finished.output)
    run(finished)
    assert files(finished.output) == before


def test_stages_of_other_settings_are_not_taken_for_this_runs(finished: RunConfig) -> None:
    other = replace(finished.model.adapters, rank=finished.model.adapters.rank + 1)
    with pytest.raises(ValueError, match="holds results of another model"):
        run(replace(finished, model=replace(finished.model, adapters=other)))
    with pytest.raises(ValueError, match="holds results of another seed"):
        run(replace(finished, seed=finished.seed + 1))


def test_other_words_about_a_checkpoint_make_it_anew(finished: RunConfig, tmp_path: Path) -> None:
    shutil.copytree(finished.output, tmp_path / "run")
    run(replace(finished, output=tmp_path / "run", domain="quiet"))
    training = json.loads((tmp_path / "run" / "checkpoint" / "config.json").read_text())["training"]
    assert training["domain"] == "quiet"
    assert len(training["records"]) == len(STAGES)


def test_corpora_prepared_anew_are_not_taken_for_the_old_one(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "corpus", tmp_path / "corpus")
    config = run_config(tmp_path, tmp_path / "run", {"audio_ctc": stage_values("audio_ctc", 1)})
    run(config)
    write_audio(tmp_path / "corpus" / "0.wav", np.zeros(640 * 9))
    with pytest.raises(ValueError, match="holds results of another training clips"):
        run(config)


def test_a_stage_trains_on_the_clips_it_names_as_if_there_were_no_others(folder: Path) -> None:
    manifest = folder / "corpus" / "manifest.jsonl"
    stages = {"video_ctc": stage_values("video_ctc", 3), "joint": stage_values("joint", 3)}
    chosen = {name: stage | {"clips": ["clip[0-3]", "clip7"]} for name, stage in stages.items()}
    run(run_config(folder, folder / "chosen", chosen))
    few = [line for line in manifest.read_text().splitlines() if not re.search(r'"clip[45689]"', line)]
    assert len(few) == 7
    (manifest.parent / "few.jsonl").write_text("\n".join(few) + "\n")
    values = run_values(folder, folder / "few", stages)
    values["data"]["manifests"] = [str(manifest.parent / "few.jsonl")]
    run(from_mapping(RunConfig, values))
    found, expected = stage_tensors(folder / "chosen"), stage_tensors(folder / "few")
    assert found.keys() == expected.keys() == {"0-video_ctc", "1-joint"}
    for stage, tensors in expected.items():
        for name, value in tensors.items():
            assert torch.equal(found[stage][name], value), name


def test_clips_that_are_not_there_are_named_before_training(folder: Path) -> None:
    stages = {"video_ctc": stage_values("video_ctc", 1), "joint": stage_values("joint", 1) | {"clips": ["s1/*"]}}
    with pytest.raises(ValueError, match=r"'s1/\*' matches no training clip of stage joint; there are clip0, clip1"):
        run(run_config(folder, folder / "no_clips", stages))
    assert stage_tensors(folder / "no_clips") == {}


def test_a_mistake_that_is_corrected_does_not_lock_the_folder(folder: Path) -> None:
    values = run_values(folder, folder / "mistaken", {"joint": stage_values("joint", 1)})
    good = list(values["stages"]["joint"]["trainable"])
    values["stages"]["joint"]["trainable"] = ["llm.*lorry_*"]
    with pytest.raises(ValueError, match="matches no parameter to train"):
        run(from_mapping(RunConfig, values))
    values["stages"]["joint"]["trainable"] = good
    run(from_mapping(RunConfig, values))
    assert (folder / "mistaken" / "checkpoint").is_dir()


def test_a_stage_that_the_trainer_ends_early_is_not_taken_for_finished(folder: Path) -> None:
    values = run_values(folder, folder / "early", {"joint": stage_values("joint", 2)})
    limited = values | {"trainer": values["trainer"] | {"max_time": {"seconds": 0}}}
    with pytest.raises(ValueError, match=r"stage joint was stopped at step \d of 2, by trainer settings"):
        run(from_mapping(RunConfig, limited))
    assert stage_tensors(folder / "early") == {}
    run(from_mapping(RunConfig, values))
    assert (folder / "early" / "checkpoint").is_dir()


def test_a_logger_that_is_not_installed_is_an_error_at_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("omni_avsr.loggers.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"wandb, which is not installed; run pip install 'omni-avsr\[wandb\]'"):
        run_config(folder, folder / "bad", all_stages(), loggers=["wandb"])


def test_the_record_tells_of_the_final_weights(folder: Path) -> None:
    config = run_config(folder, folder / "final", {"joint": stage_values("joint", 3, validate_every=2)})
    run(config)
    record = json.loads((folder / "final" / "stages" / "0-joint" / "record.json").read_text())
    with (folder / "final" / "stages" / "0-joint" / "csv" / "from-step-0" / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["validation/loss"]]
    assert [row["step"] for row in rows] == ["2", "3"]
    assert record["metrics"]["validation/loss"] == pytest.approx(float(rows[-1]["validation/loss"]))


def test_stored_features_of_other_noise_are_not_used(folder: Path, tmp_path: Path) -> None:
    values = run_values(folder, tmp_path / "run", {"joint": stage_values("joint", 1, feature_variants=1)})
    run(from_mapping(RunConfig, values))
    write_audio(tmp_path / "other.wav", np.random.default_rng(5).standard_normal(8000) / 10)
    values["data"]["noise"] = str(tmp_path / "other.wav")
    with pytest.raises(ValueError, match="another noise"):
        run(from_mapping(RunConfig, values))
    for count in (2, 3):
        shutil.rmtree(tmp_path / "run" / "stages")
        run(from_mapping(RunConfig, values))
        assert len(list((tmp_path / "run" / "features").iterdir())) == count
        values["data"]["snr_over"] = "clip"  # the same recording at other ratios


def test_a_stage_that_is_added_is_trained_and_goes_into_the_checkpoint(folder: Path) -> None:
    values = run_values(folder, folder / "added", {"first": stage_values("projector", 1)})
    run(from_mapping(RunConfig, values))
    before = stage_tensors(folder / "added")
    values["stages"]["second"] = stage_values("joint", 1)
    run(from_mapping(RunConfig, values))
    after = stage_tensors(folder / "added")
    assert after.keys() == {"0-first", "1-second"}
    assert all(torch.equal(value, before["0-first"][name]) for name, value in after["0-first"].items())
    training = json.loads((folder / "added" / "checkpoint" / "config.json").read_text())["training"]
    assert [record["stage"] for record in training["records"]] == ["first", "second"]


def test_the_folder_of_a_killed_run_is_finished_from_its_last_resume_point(folder: Path) -> None:
    """Killed after the last step of the stage, before its tensors were written."""
    config = run_config(folder, folder / "last_step", {"joint": stage_values("joint", 2)})
    run(config)
    [stage_folder] = (config.output / "stages").iterdir()
    expected = stage_tensors(config.output)["0-joint"]
    (stage_folder / "trained.safetensors").unlink()
    run(config)
    found = stage_tensors(config.output)["0-joint"]
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_validation_batches_keep_modalities_apart_and_miss_no_clip() -> None:
    both, sound = (Modality.AUDIO, Modality.VIDEO), (Modality.AUDIO,)
    sizes = [ClipSize(5, number + 1, sound if number % 3 else both) for number in range(8)]
    plans = whole_plans(sizes, 2)
    assert sorted(index for plan in plans for index in plan.indices) == list(range(8))
    for plan in plans:
        assert len({sizes[index].modalities for index in plan.indices}) == 1
        assert plan.num_clips == len(plan.indices) <= 2
        assert plan.num_label_tokens[Task.ASR] == sum(index + 1 for index in plan.indices)


def test_a_stage_whose_time_is_over_ends_early_and_says_so(tmp_path: Path) -> None:
    write_corpus(tmp_path / "corpus")
    hurried = stage_values("projector", 50, max_seconds=1e-3, validate_every=50)
    output = run(run_config(tmp_path, tmp_path / "out", {"hurried": hurried, "joint": stage_values("joint", 1)}))
    record = json.loads((output / "stages" / "0-hurried" / "record.json").read_text())
    assert record["steps"] == 1
    assert "validation/loss" in record["metrics"]
    assert (output / "checkpoint").is_dir()
