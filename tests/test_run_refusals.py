"""What a run refuses before it trains anything, each mistake with its place and what to do."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from helpers_model import (
    STAGES,
    all_stages,
    model_values,
    run_config,
    run_values,
    stage_tensors,
    stage_values,
    write_corpus,
)
from lightning import Trainer

from omni_avsr.config import from_mapping
from omni_avsr.run import RunConfig, run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("run")
    write_corpus(made / "corpus")
    return made


def with_line(folder: Path, name: str, **changes: Any) -> dict[str, Any]:
    """Settings of a run whose manifest has one more training clip than the corpus."""
    manifest = folder / "corpus" / f"{name}.jsonl"
    text = (folder / "corpus" / "manifest.jsonl").read_text()
    line = json.loads(text.splitlines()[0]) | {"id": name} | changes
    manifest.write_text(text + json.dumps({key: value for key, value in line.items() if value is not None}) + "\n")
    values = run_values(folder, folder / name, all_stages())
    values["data"]["manifests"] = [str(manifest)]
    return values


def refused(values: Mapping[str, Any], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Trainer, "fit", lambda *_: pytest.fail("the error comes only once training is on"))
    with pytest.raises(ValueError, match=message):
        run(from_mapping(RunConfig, values, "train"))


def test_a_missing_manifest_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = run_values(folder, folder / "bad", all_stages())
    values["data"]["manifests"] = [str(folder / "nowhere.jsonl")]
    refused(values, "nowhere.jsonl: no such manifest; `omni-avsr prepare` writes one", monkeypatch)


def test_a_missing_media_file_is_named_with_its_line(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = with_line(folder, "gone", video="gone.mp4")
    refused(values, r"gone.jsonl:13: clip 'gone': .*gone.mp4 does not exist", monkeypatch)


def test_an_empty_split_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = run_values(folder, folder / "bad", all_stages())
    lines = (folder / "corpus" / "manifest.jsonl").read_text().splitlines()
    manifest = folder / "corpus" / "no_validation.jsonl"
    manifest.write_text("\n".join(line for line in lines if '"validation"' not in line))
    values["data"]["manifests"] = [str(manifest)]
    refused(values, "split 'validation' is empty in .*no_validation.jsonl", monkeypatch)


def test_validation_reads_the_split_that_it_is_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = run_values(folder, folder / "bad", all_stages())
    values["data"]["validation_split"] = "elsewhere"
    refused(values, "split 'elsewhere' is empty", monkeypatch)


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
    values = run_values(folder, folder / "bad", all_stages())
    values["data"].pop("noise")
    for kind in STAGES[:-1]:
        values["stages"][kind]["augment"] = None
    refused(values, r"snr_db names noise levels, but no noise file is given \(data.noise\)", monkeypatch)


def test_a_missing_noise_file_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = run_values(folder, folder / "bad", all_stages())
    values["data"]["noise"] = str(folder / "quiet.wav")
    refused(values, "quiet.wav: no such file", monkeypatch)


@pytest.mark.parametrize("name", ["noise.wav", "copy.wav"])
def test_training_on_test_noise_is_refused(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = run_values(folder, folder / "bad", all_stages())
    shutil.copy(folder / "corpus" / "noise.wav", folder / "corpus" / "copy.wav")
    values["data"]["test_noise"] = str(folder / "corpus" / name)
    refused(values, "this would train on test noise: .*noise.wav .data.noise. and .* in common", monkeypatch)


def test_a_noise_manifest_without_noise_to_train_with_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = run_values(folder, folder / "bad", all_stages())
    values["data"]["noise"] = str(folder / "corpus" / "noise.jsonl")
    recording = {"id": "hiss", "audio": "noise.wav", "seconds": 0.5, "kind": "hiss", "sha256": "0" * 64}
    Path(values["data"]["noise"]).write_text(json.dumps(recording | {"split": "test"}))
    refused(values, "noise.jsonl: no noise of split train; it has 1 of test", monkeypatch)


def test_a_noise_manifest_with_one_recording_in_two_splits_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = run_values(folder, folder / "bad", all_stages())
    values["data"]["noise"] = str(folder / "corpus" / "noise.jsonl")
    recording = {"id": "hiss", "audio": "noise.wav", "seconds": 0.5, "kind": "hiss", "sha256": "0" * 64}
    lines = [json.dumps(recording | {"split": split}) for split in ("train", "test")]
    Path(values["data"]["noise"]).write_text("\n".join(lines))
    refused(values, "noise.jsonl:2: id 'hiss' is in split 'train' on line 1", monkeypatch)


def test_a_glob_of_the_last_stage_that_matches_nothing_is_refused_before_the_first(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = run_values(folder, folder / "bad", all_stages())
    values["stages"]["joint"]["trainable"] = ["llm.*lorry_*"]
    refused(values, r"'llm\.\*lorry_\*' matches no parameter to train", monkeypatch)


def test_a_drifting_module_that_is_none_is_refused_before_the_first_stage(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = run_values(folder, folder / "bad", all_stages())
    values["stages"]["joint"] |= {"drifting": ["encoders.vidoe"], "feature_variants": 0}
    refused(values, r"'encoders\.vidoe' matches no module to leave in training mode", monkeypatch)


def test_features_that_depend_on_their_batch_are_not_stored(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = run_values(folder, folder / "bad", all_stages())
    values["model"]["padding"] = "attended"
    values["stages"]["joint"]["feature_variants"] = 1
    refused(values, "feature_variants stores each clip's own encoder outputs, but with padding attended", monkeypatch)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 3}, r"^train\.epochs: Unexpected keyword argument"),
        ({"log_every": 0}, r"^train\.log_every: .*greater than 0"),
        ({"trainer": {"gpus": 2}}, "trainer has gpus, which lightning.Trainer does not take"),
        ({"trainer": {"max_epochs": 2}}, "trainer has max_epochs, which follows from the stage's settings"),
        ({"trainer": {"precision": "16-true"}}, "trainer.precision is 16-true; choose 32-true, bf16-mixed"),
        ({"trainer": {"strategy": "fsdp"}}, "trainer.strategy is fsdp, .*; use trainer=fsdp or trainer=sharded"),
        ({"trainer": {"strategy": "sharded", "precision": "16-mixed"}}, "16-mixed, which .* sharded cannot have"),
        ({"stages": {"Joint Stage": stage_values("joint", 2)}}, r"^train\.stages\.Joint Stage: .*pattern"),
    ],
)
def test_a_wrong_setting_is_named(change: dict[str, Any], message: str, folder: Path) -> None:
    with pytest.raises(ValueError, match=message):
        run_config(folder, folder / "bad", **({"stages": all_stages()} | change))


def test_a_model_of_another_size_than_its_facts_say_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    facts = {"models": 1, "llm_passes": 3, "active_parameters": 9, "lora_set": 2, "projector": 2}
    facts |= {"trained_parameters": {"asr+vsr+avsr": 12_345}, "tokens_per_second": {"asr 4": 12.5}}
    stages = {"joint": stage_values("joint", 2)}
    # With a stage before it, it is refused before that one, too.
    for chosen in (stages, all_stages()):
        values = run_values(folder, folder / "bad", chosen, facts=facts)
        refused(values, r"trains [\d,]+ parameters, but facts\.trained_parameters says 12,345 for asr", monkeypatch)
    facts["trained_parameters"] = {"asr": 3}
    refused(run_values(folder, folder / "bad", stages, facts=facts), "has no asr\\+vsr\\+avsr, only asr", monkeypatch)


def test_clips_without_what_a_stage_reads_are_left_to_the_other_stages(folder: Path) -> None:
    values = with_line(folder, "audio_only", video=None, frames=None)
    values["stages"] = {"video_ctc": stage_values("video_ctc", 6), "joint": stage_values("joint", 6)}
    # Over an epoch of six batches: what has no video would stop the first stage.
    run(from_mapping(RunConfig, values, "train"))
    assert set(stage_tensors(folder / "audio_only")) == {"0-video_ctc", "1-joint"}


def test_clips_that_run_different_layers_are_refused_when_sharded(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Processes with unlike batches would wait for each other; an encoder's stage reads the same of all its clips."""
    values = with_line(folder, "unlike", video=None, frames=None)
    values["trainer"]["strategy"] = "sharded"
    refused(values, "stage projector trains on clips with audio and audio.video, .* or use trainer=ddp", monkeypatch)


@pytest.mark.parametrize("place", ["first", "later"])
def test_layers_that_are_left_out_at_random_are_refused_when_sharded(
    place: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = run_values(folder, folder / "drop", all_stages())
    values["trainer"]["strategy"] = "sharded"
    sizes = {"dim": 16, "num_layers": 1, "num_heads": 2, "ffn_dim": 16, "channels": [8, 8, 8, 8]}
    values["model"]["video_encoder"] = {"kind": "avhubert", "ctc": True, **sizes}
    if place == "later":
        values["stages"] = {kind: values["stages"][kind] for kind in ("audio_ctc", "video_ctc")}
    refused(values, r"stage video_ctc trains an encoder .* set model\.video_encoder\.layer_drop=0", monkeypatch)


def test_a_stage_for_which_no_clip_has_what_it_reads_is_an_error(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = folder / "corpus" / "sound.jsonl"
    lines = [json.loads(line) for line in (folder / "corpus" / "manifest.jsonl").read_text().splitlines()]
    kept = [{key: value for key, value in line.items() if key not in ("video", "frames")} for line in lines]
    manifest.write_text("\n".join(map(json.dumps, kept)))
    values = run_values(folder, folder / "bad", all_stages())
    values["data"]["manifests"] = [str(manifest)]
    refused(values, "stage video_ctc trains vsr, but none of 10 clips has what that reads", monkeypatch)
