"""A run of all stages on a tiny corpus: what it leaves behind, and what it refuses before it trains anything."""

import csv
import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers_model import model_values, run_config, run_values, stage_tensors, stage_values, write_corpus
from lightning import Trainer
from rich.console import Console

from omni_avsr.checkpoint import load_checkpoint, save_tensors
from omni_avsr.config import from_mapping
from omni_avsr.data.batching import ClipSize
from omni_avsr.media import write_audio
from omni_avsr.resume import ResumePoint
from omni_avsr.run import RunConfig, run
from omni_avsr.stage_data import whole_plans
from omni_avsr.types import Modality, Task

STAGES = ("video_ctc", "audio_ctc", "projector", "joint")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("run")
    write_corpus(made / "corpus")
    return made


def stages(**changes: Any) -> dict[str, Any]:
    return {kind: stage_values(kind, 2, validate_every=2, **changes) for kind in STAGES}


@pytest.fixture(scope="module")
def finished(folder: Path) -> RunConfig:
    """A run of all stages, two steps each."""
    chosen = stages()
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


PROGRESS_LINE = re.compile(
    r"joint (?P<step>\d/4), (?P<left>[\d:]+) left: .+; lr \S+, \S+ s/step, (?P<clips>\S+) clips/s, "
    r"(?P<tokens>\S+) tokens/s, padding (?P<padding>\d+) %"
)


def test_progress_tells_speed_and_what_is_left(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", logger="omni_avsr"):
        run(run_config(folder, folder / "progress", {"joint": stage_values("joint", 4)}, log_every=2))
    messages = [record.getMessage() for record in caplog.records]
    assert any(message.startswith("stage 1 of 1, joint: ") and message.endswith("in 4 steps") for message in messages)
    found = [match for message in messages if (match := PROGRESS_LINE.fullmatch(message))]
    assert [match["step"] for match in found] == ["2/4", "4/4"]
    assert found[1]["left"] == "0:00:00"
    for match in found:
        assert float(match["tokens"]) > float(match["clips"]) > 0
        assert 0 <= int(match["padding"]) < 100


def test_whoever_watches_sees_a_bar_with_the_stages_place(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    screen = Console(force_terminal=True, width=120, file=StringIO())
    monkeypatch.setattr("omni_avsr.callbacks.get_console", lambda: screen)
    joint = stage_values("joint", 2)
    with caplog.at_level("INFO", logger="omni_avsr"):
        run(run_config(folder, folder / "bar", {"first": joint, "second": joint}))
    assert isinstance(screen.file, StringIO)
    shown = screen.file.getvalue()
    assert "stage 1 of 2, first" in shown
    assert "stage 2 of 2, second" in shown
    assert "2/2" in shown
    assert any(record.getMessage().endswith("in 2 steps; then second") for record in caplog.records)


def test_a_logger_that_is_not_installed_is_an_error_at_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("omni_avsr.loggers.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"wandb, which is not installed; run pip install 'omni-avsr\[wandb\]'"):
        run_config(folder, folder / "bad", stages(), loggers=["wandb"])


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
    shutil.rmtree(tmp_path / "run" / "stages")
    run(from_mapping(RunConfig, values))
    assert len(list((tmp_path / "run" / "features").iterdir())) == 2


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


def with_line(folder: Path, name: str, **changes: Any) -> dict[str, Any]:
    """Settings of a run whose manifest has one more training clip than the corpus."""
    manifest = folder / "corpus" / f"{name}.jsonl"
    text = (folder / "corpus" / "manifest.jsonl").read_text()
    line = json.loads(text.splitlines()[0]) | {"id": name} | changes
    manifest.write_text(text + json.dumps({key: value for key, value in line.items() if value is not None}) + "\n")
    values = run_values(folder, folder / name, stages())
    values["data"]["manifests"] = [str(manifest)]
    return values


def refused(values: Mapping[str, Any], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Trainer, "fit", lambda *_: pytest.fail("the error comes only once training is on"))
    with pytest.raises(ValueError, match=message):
        run(from_mapping(RunConfig, values, "train"))


def test_a_missing_manifest_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = run_values(folder, folder / "bad", stages())
    values["data"]["manifests"] = [str(folder / "nowhere.jsonl")]
    refused(values, "nowhere.jsonl: no such manifest; `omni-avsr prepare` writes one", monkeypatch)


def test_a_missing_media_file_is_named_with_its_line(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = with_line(folder, "gone", video="gone.mp4")
    refused(values, r"gone.jsonl:13: clip 'gone': .*gone.mp4 does not exist", monkeypatch)


def test_an_empty_split_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = run_values(folder, folder / "bad", stages())
    lines = (folder / "corpus" / "manifest.jsonl").read_text().splitlines()
    manifest = folder / "corpus" / "no_validation.jsonl"
    manifest.write_text("\n".join(line for line in lines if '"validation"' not in line))
    values["data"]["manifests"] = [str(manifest)]
    refused(values, "split 'validation' is empty in .*no_validation.jsonl", monkeypatch)


def test_a_transcript_over_the_limit_is_named_before_the_first_stage(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Eight characters: allowed in the encoders' stages, one too many with eos.
    values = with_line(folder, "long", text="abcdefgh")
    refused(values, "the transcript of long has 9 tokens, .* max_label_tokens=8", monkeypatch)


def test_a_clip_that_an_encoder_cannot_take_is_named_before_the_first_stage(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = with_line(folder, "endless", seconds=0.8)
    values["model"] = model_values(folder, "whisper_trimmed")
    values["model"]["audio_encoder"]["ctc"] = True
    refused(values, r"endless has 0\.80 s, the audio encoder takes 0\.6 s; cut or drop the clip", monkeypatch)


def test_noise_levels_without_a_noise_file_are_refused_before_the_first_stage(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = run_values(folder, folder / "bad", stages())
    values["data"].pop("noise")
    for kind in STAGES[:-1]:
        values["stages"][kind]["augment"] = None
    refused(values, r"snr_db names noise levels, but no noise file is given \(data.noise\)", monkeypatch)


def test_a_missing_noise_file_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = run_values(folder, folder / "bad", stages())
    values["data"]["noise"] = str(folder / "quiet.wav")
    refused(values, "quiet.wav: no such file", monkeypatch)


def test_a_glob_of_the_last_stage_that_matches_nothing_is_refused_before_the_first(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = run_values(folder, folder / "bad", stages())
    values["stages"]["joint"]["trainable"] = ["llm.*lorry_*"]
    refused(values, r"'llm\.\*lorry_\*' matches no parameter to train", monkeypatch)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 3}, r"^train\.epochs: Unexpected keyword argument"),
        ({"log_every": 0}, r"^train\.log_every: .*greater than 0"),
        ({"trainer": {"gpus": 2}}, "trainer has gpus, which lightning.Trainer does not take"),
        ({"trainer": {"max_epochs": 2}}, "trainer has max_epochs, which follows from the stage's settings"),
        ({"trainer": {"precision": "bf16-true"}}, "trainer.precision is bf16-true; choose 32-true, bf16-mixed"),
        ({"stages": {"Joint Stage": stage_values("joint", 2)}}, r"^train\.stages\.Joint Stage: .*pattern"),
    ],
)
def test_a_wrong_setting_is_named(change: dict[str, Any], message: str, folder: Path) -> None:
    with pytest.raises(ValueError, match=message):
        run_config(folder, folder / "bad", **({"stages": stages()} | change))


def test_clips_without_what_a_stage_reads_are_left_to_the_other_stages(folder: Path) -> None:
    values = with_line(folder, "audio_only", video=None, frames=None)
    values["stages"] = {"video_ctc": stage_values("video_ctc", 6), "joint": stage_values("joint", 6)}
    # Over an epoch of six batches: what has no video would stop the first stage.
    run(from_mapping(RunConfig, values, "train"))
    assert set(stage_tensors(folder / "audio_only")) == {"0-video_ctc", "1-joint"}


def test_a_stage_for_which_no_clip_has_what_it_reads_is_an_error(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = folder / "corpus" / "sound.jsonl"
    lines = [json.loads(line) for line in (folder / "corpus" / "manifest.jsonl").read_text().splitlines()]
    kept = [{key: value for key, value in line.items() if key not in ("video", "frames")} for line in lines]
    manifest.write_text("\n".join(map(json.dumps, kept)))
    values = run_values(folder, folder / "bad", stages())
    values["data"]["manifests"] = [str(manifest)]
    refused(values, "stage video_ctc trains vsr, but none of 10 clips has what that reads", monkeypatch)


def test_validation_batches_keep_modalities_apart_and_miss_no_clip() -> None:
    both, sound = (Modality.AUDIO, Modality.VIDEO), (Modality.AUDIO,)
    sizes = [ClipSize(5, number + 1, sound if number % 3 else both) for number in range(8)]
    plans = whole_plans(sizes, 2)
    assert sorted(index for plan in plans for index in plan.indices) == list(range(8))
    for plan in plans:
        assert len({sizes[index].modalities for index in plan.indices}) == 1
        assert plan.num_clips == len(plan.indices) <= 2
        assert plan.num_label_tokens[Task.ASR] == sum(index + 1 for index in plan.indices)
