"""Checkpoint folders: they give back exactly the model that was saved, or say what is wrong with them."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers_checkpoint import ALL_NEW, TRAINING, outputs, save_tiny_checkpoint, train
from helpers_llm import save_tiny_llm
from helpers_model import model_values, save_tiny_whisper, tiny_batch, tiny_model
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, WhisperModel

from omni_avsr import checkpoint, linear
from omni_avsr.adapters import ROUTES
from omni_avsr.build import build_model
from omni_avsr.checkpoint import checkpoint_sha256, load_checkpoint, read_info, save_checkpoint
from omni_avsr.config import ModelConfig, from_mapping
from omni_avsr.model import OmniAVSR
from omni_avsr.types import Task

JOINT = ("projectors.*", "markers.*", "llm.*lora_*")
UPPER_WHISPER = ("encoders.audio.encoder.encoder.layers.0.*", "encoders.audio.ctc.*", *JOINT)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the tiny base models are saved, once for all tests."""
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def saved(models: Path) -> Path:
    """A checkpoint that tests must not change."""
    save_tiny_checkpoint(models)
    return models / "checkpoint"


@pytest.fixture
def copy(saved: Path, tmp_path: Path) -> Path:
    """A checkpoint to spoil."""
    return Path(shutil.copytree(saved, tmp_path / "checkpoint"))


def hub_model(folder: Path, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> OmniAVSR:
    """A tiny model whose base models have names as on the Hub, found below ``folder``."""
    values = model_values(folder, audio="whisper_trimmed", **settings)
    values["llm"]["weights"], values["audio_encoder"]["weights"] = "someone/llm-llama", "whisper"
    monkeypatch.setenv("OMNI_AVSR_MODELS", str(folder))
    return build_model(from_mapping(ModelConfig, values), seed=1).eval()


def assert_same_model(found: OmniAVSR, expected: OmniAVSR) -> None:
    state, own = expected.state_dict(), found.state_dict()
    assert own.keys() == state.keys()
    assert [name for name in state if not torch.equal(state[name], own[name])] == []
    assert outputs(found, tiny_batch()) == outputs(expected, tiny_batch())


@pytest.mark.parametrize("strategy", ROUTES)
@pytest.mark.parametrize("audio", ["compact_audio", "whisper_trimmed"])
def test_a_trained_model_comes_back_bit_for_bit(audio: str, strategy: str, models: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"audio": audio, "adapters": {"strategy": strategy}}
    model = tiny_model(models, **settings)
    untrained = outputs(model, tiny_batch())
    trained = train(model)
    save_checkpoint(tmp_path / "checkpoint", model, trained, TRAINING)
    loaded = load_checkpoint(tmp_path / "checkpoint")
    assert_same_model(loaded, model)
    assert outputs(loaded, tiny_batch()) != untrained
    assert read_info(tmp_path / "checkpoint").trained_base == ()
    statistics = [name for name in loaded.state_dict() if name.endswith("running_mean")]
    assert statistics
    assert all(loaded.state_dict()[name].abs().max() > 0 for name in statistics)


def test_a_loaded_model_is_frozen_and_in_evaluation_mode(saved: Path) -> None:
    model = load_checkpoint(saved)
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert not any(module.training for module in model.modules())


def test_trained_layers_of_a_base_model_come_back_and_may_not_be_missing(models: Path, tmp_path: Path) -> None:
    model = tiny_model(models, audio="whisper_trimmed", video_encoder=None)
    original = {name: value.clone() for name, value in model.encoders["audio"].state_dict().items()}
    trained = train(model, [glob for glob in UPPER_WHISPER if "ctc" not in glob])
    save_checkpoint(tmp_path / "checkpoint", model, trained, TRAINING)
    loaded = load_checkpoint(tmp_path / "checkpoint")
    assert_same_model(loaded, model)
    changed = {n for n, value in loaded.encoders["audio"].state_dict().items() if not torch.equal(value, original[n])}
    assert changed
    assert all(name.startswith("encoder.encoder.layers.0.") for name in changed)
    # Without them the base model's own layers would be left in place.
    listed = read_info(tmp_path / "checkpoint").trained_base
    assert set(listed) == {name for name in trained if name.startswith("encoders.audio.")}
    tensors = load_file(tmp_path / "checkpoint" / "trained.safetensors")
    del tensors[listed[0]]
    save_file(tensors, tmp_path / "checkpoint" / "trained.safetensors")
    with pytest.raises(ValueError, match=f"1 are missing, such as {listed[0]}"):
        load_checkpoint(tmp_path / "checkpoint")


def test_parts_that_no_stage_trained_are_stored_too(models: Path, tmp_path: Path) -> None:
    """A run of the projector stage alone: random encoders, CTC heads and adapters cannot be had from anywhere else."""
    model = tiny_model(models)
    trained = train(model, ["projectors.*"])
    save_checkpoint(tmp_path / "checkpoint", model, trained, TRAINING)
    assert_same_model(load_checkpoint(tmp_path / "checkpoint"), model)


def test_single_modality_models_come_back(models: Path, tmp_path: Path) -> None:
    for absent, globs in (("video_encoder", JOINT), ("audio_encoder", ALL_NEW)):
        values = model_values(models)
        values[absent] = None
        model = build_model(from_mapping(ModelConfig, values), seed=1)
        trained = train(model, globs)
        save_checkpoint(tmp_path / "checkpoint", model, trained, TRAINING)
        assert_same_model(load_checkpoint(tmp_path / "checkpoint"), model)
        (task,) = model.config.tasks
        # The hybrid strategy without the adapters of tasks that the model cannot do.
        assert sorted(os.listdir(tmp_path / "checkpoint" / "adapters")) == sorted(["shared", task.value])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_halves_the_files_and_rounds_each_weight_once(
    dtype: torch.dtype, models: Path, tmp_path: Path
) -> None:
    model = tiny_model(models)
    trained = train(model)
    for name, kind in (("full", None), ("half", dtype)):
        save_checkpoint(tmp_path / name, model, trained, TRAINING, kind)
    for file in ["trained.safetensors", "adapters/shared/adapter_model.safetensors"]:
        stored = load_file(tmp_path / "half" / file)
        assert {value.dtype for value in stored.values() if value.is_floating_point()} == {dtype}
        sizes = [sum(value.nbytes for value in load_file(tmp_path / name / file).values()) for name in ("half", "full")]
        assert sizes[0] < 0.51 * sizes[1]
    loaded, state = load_checkpoint(tmp_path / "half").state_dict(), model.state_dict()
    for name, value in loaded.items():
        assert value.dtype == state[name].dtype
        rounded = ".lora_" in name or not name.startswith("llm.")
        expected = state[name].to(dtype).to(value.dtype) if rounded and value.is_floating_point() else state[name]
        torch.testing.assert_close(value, expected, rtol=0, atol=0, msg=name)


def test_a_weight_beyond_half_precision_is_refused_instead_of_becoming_infinite(models: Path, tmp_path: Path) -> None:
    model = tiny_model(models)
    model.markers.weight.data[0, 0] = 1e5
    with pytest.raises(ValueError, match=r"1 tensors are not finite in torch.float16, such as markers.weight"):
        save_checkpoint(tmp_path / "checkpoint", model, {}, TRAINING, torch.float16)
    assert list(tmp_path.iterdir()) == []


def test_the_llm_may_run_in_another_dtype_than_it_was_trained_in(saved: Path) -> None:
    model = load_checkpoint(saved, "bfloat16")
    assert model.llm.get_input_embeddings().weight.dtype == torch.bfloat16
    assert read_info(saved).model.llm.dtype == "float32"


def without(name: str) -> Callable[[dict[str, torch.Tensor]], None]:
    return lambda tensors: tensors.__delitem__(name)


def with_tensor(name: str, *shape: int) -> Callable[[dict[str, torch.Tensor]], None]:
    return lambda tensors: tensors.update({name: torch.zeros(shape)})


SPOILED: list[tuple[str, Callable[[dict[str, torch.Tensor]], None], str]] = [
    ("parameter gone", without("markers.weight"), r"1 are missing, such as markers\.weight"),
    (
        "statistics gone",
        without("encoders.video.encoder.stem.1.running_var"),
        r"1 are missing, such as encoders\.video\.encoder\.stem\.1\.running_var",
    ),
    ("unknown tensor", with_tensor("markers.bias", 2), r"1 tensors of no part of this model, such as markers\.bias"),
    (
        "tensor of the base model",
        with_tensor("llm.model.norm.weight", 32),
        r"1 tensors of no part of this model, such as llm\.model\.norm\.weight",
    ),
    ("other shape", with_tensor("markers.weight", 3, 2), r"1 tensors do not fit .*such as markers\.weight"),
]


@pytest.mark.parametrize(("spoil", "message"), [case[1:] for case in SPOILED], ids=[case[0] for case in SPOILED])
def test_tensors_must_be_exactly_those_of_the_model(
    spoil: Callable[[dict[str, torch.Tensor]], None], message: str, copy: Path
) -> None:
    tensors = load_file(copy / "trained.safetensors")
    spoil(tensors)
    save_file(tensors, copy / "trained.safetensors")
    with pytest.raises(ValueError, match=message):
        load_checkpoint(copy)


def test_missing_or_broken_tensor_files_are_clear_errors(copy: Path) -> None:
    file = copy / "trained.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"trained\.safetensors cannot be read"):
        load_checkpoint(copy)
    file.unlink()
    with pytest.raises(ValueError, match=r"trained\.safetensors cannot be read"):
        load_checkpoint(copy)


@pytest.mark.parametrize("gone", ["adapters/vsr", "adapters"])
def test_a_checkpoint_without_its_adapters_does_not_load(gone: str, copy: Path) -> None:
    shutil.rmtree(copy / gone)
    with pytest.raises(
        ValueError, match=r"holds the adapters \[.*\], the model has \['asr', 'avsr', 'shared', 'vsr'\]"
    ):
        load_checkpoint(copy)


def test_an_unknown_adapter_a_lost_file_and_another_rank_are_errors(copy: Path) -> None:
    shutil.copytree(copy / "adapters" / "asr", copy / "adapters" / "singing")
    with pytest.raises(ValueError, match="'singing'"):
        load_checkpoint(copy)
    shutil.rmtree(copy / "adapters" / "singing")
    settings = copy / "adapters" / "asr" / "adapter_config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"r": 4}))
    with pytest.raises(ValueError, match="has r 4, but 'asr' has 2"):
        load_checkpoint(copy)
    settings.unlink()
    with pytest.raises(ValueError, match=r"no adapter in .*asr: adapter_config\.json is missing"):
        load_checkpoint(copy)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format_version": 2}, "format version 2, this release reads 1"),
        ({"format_version": None}, "format version None, this release reads 1"),
        ({"model": {"llm": {"weights": "x"}}}, "a model needs an audio encoder"),
        ({"model": {"llm": {"weights": "x"}, "colour": 1}}, r"model\.colour: Unexpected"),
    ],
)
def test_a_config_of_another_kind_is_a_clear_error(change: dict[str, Any], message: str, copy: Path) -> None:
    file = copy / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(ValueError, match=message):
        load_checkpoint(copy)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r"config\.json is not JSON"),
        ("[]", "format version None"),
        ('{"format_version": 1}', "lacks model and training"),
    ],
)
def test_a_broken_config_is_a_clear_error(text: str, message: str, copy: Path) -> None:
    (copy / "config.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_info(copy)


def test_a_folder_that_is_no_checkpoint_is_a_clear_error(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(ValueError, match=r"is no checkpoint: it has no config\.json"):
            load_checkpoint(folder)


def test_files_name_base_models_as_they_were_asked_for_and_no_machine_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = hub_model(tmp_path / "elsewhere", monkeypatch)
    folder = tmp_path / "checkpoint"
    save_checkpoint(folder, model, {}, TRAINING)

    def no_constant(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    config = json.loads((folder / "config.json").read_text(), parse_constant=no_constant)
    assert config["format_version"] == 1
    assert config["training"] == TRAINING
    assert config["model"]["llm"]["weights"] == "someone/llm-llama"
    assert config["model"]["audio_encoder"]["weights"] == "whisper"
    for part in ("llm", "audio_encoder"):
        assert len(bytes.fromhex(config["model"][part]["sha256"])) == 32
    adapter = json.loads((folder / "adapters" / "shared" / "adapter_config.json").read_text())
    assert adapter["base_model_name_or_path"] == "someone/llm-llama"
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert len(files) == 3 + 4 * 2
    assert [path for path in files if str(tmp_path).encode() in path.read_bytes()] == []
    # Found again where the models are now, wherever that is.
    (tmp_path / "elsewhere").rename(tmp_path / "moved")
    monkeypatch.setenv("OMNI_AVSR_MODELS", str(tmp_path / "moved"))
    assert_same_model(load_checkpoint(folder), model)


@pytest.mark.parametrize("part", ["llm", "whisper"])
def test_other_base_weights_under_the_same_name_are_refused(
    part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = hub_model(tmp_path, monkeypatch)
    save_checkpoint(tmp_path / "checkpoint", model, {}, TRAINING)
    if part == "llm":
        save_tiny_llm(tmp_path / "llm-llama", seed=7)
    else:
        other = WhisperModel.from_pretrained(save_tiny_whisper(tmp_path / "other"))
        other.encoder.layer_norm.weight.data += 0.01
        other.save_pretrained(tmp_path / "whisper")
    with pytest.raises(ValueError, match=r"have sha256 [0-9a-f]{64}, expected [0-9a-f]{64}"):
        load_checkpoint(tmp_path / "checkpoint")


@torch.no_grad()
def test_plain_peft_reads_an_adapter_and_gives_the_same_logits(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The other side knows no oneDNN, whose order of summing differs by more than is allowed here.
    monkeypatch.setattr(linear, "HAS_ONEDNN", False)
    model = tiny_model(models, adapters={"strategy": "shared"})
    save_checkpoint(tmp_path / "checkpoint", model, train(model), TRAINING)
    base = AutoModelForCausalLM.from_pretrained(models / "llm-llama")
    ids = torch.arange(3, 20)[None]
    plain = base(ids).logits
    adapted = PeftModel.from_pretrained(base, tmp_path / "checkpoint" / "adapters" / "shared").eval()
    with model.router.route(Task.ASR):
        expected = model.llm(ids).logits
    torch.testing.assert_close(adapted(ids).logits, expected, rtol=1e-6, atol=1e-6)
    assert not torch.allclose(plain, expected, atol=1e-3)


def test_saving_again_replaces_all_of_the_checkpoint_and_nothing_else(models: Path, tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    model = tiny_model(models)
    save_checkpoint(folder, model, {}, TRAINING)
    (folder / "notes.txt").write_text("of whoever owns the folder")
    before = checkpoint_sha256(folder)
    shared = tiny_model(models, adapters={"strategy": "shared"})
    save_checkpoint(folder, shared, {}, TRAINING | {"seed": 4})
    assert {path.name for path in folder.iterdir()} == {
        "README.md",
        "config.json",
        "trained.safetensors",
        "adapters",
        "notes.txt",
    }
    assert os.listdir(folder / "adapters") == ["shared"]
    assert read_info(folder).training["seed"] == 4
    assert checkpoint_sha256(folder) != before
    assert os.listdir(tmp_path) == ["checkpoint"]


@pytest.mark.parametrize("broken", ["save_adapter", "rename"])
def test_a_save_that_fails_leaves_the_old_checkpoint_and_nothing_else(
    broken: str, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "checkpoint"
    model = tiny_model(models)
    save_checkpoint(folder, model, {}, TRAINING)
    before = checkpoint_sha256(folder)
    replace = os.replace

    def fail(*arguments: Any) -> None:
        if broken == "rename" and Path(arguments[1]) != folder:
            return replace(*arguments)
        # The way back of the old one is not to fail as well.
        monkeypatch.undo()
        raise OSError("no space left")

    if broken == "rename":
        monkeypatch.setattr(os, "replace", fail)
    else:
        monkeypatch.setattr(checkpoint, "save_adapter", fail)
    model.markers.weight.data += 1
    with pytest.raises(OSError, match="no space left"):
        save_checkpoint(folder, model, {}, TRAINING)
    assert checkpoint_sha256(folder) == before
    assert os.listdir(tmp_path) == ["checkpoint"]


def test_others_may_read_the_files(saved: Path) -> None:
    umask = os.umask(0)
    os.umask(umask)
    modes = {path.name: path.stat().st_mode & 0o777 for path in saved.rglob("*") if path.is_file()}
    assert set(modes.values()) == {0o666 & ~umask}, modes
    assert saved.stat().st_mode & 0o777 == 0o777 & ~umask


def test_the_fingerprint_is_of_what_decides_outputs(copy: Path) -> None:
    before = checkpoint_sha256(copy)
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"training": {"date": "another day"}}))
    assert checkpoint_sha256(copy) == before
    config["model"]["prompts"]["asr"] = "listen"
    (copy / "config.json").write_text(json.dumps(config))
    assert checkpoint_sha256(copy) != before


def test_results_of_an_earlier_release_still_belong_to_their_checkpoint() -> None:
    """Settings have been added since."""
    experiment = Path(__file__).parents[1] / "experiments" / "001-grid-s1"
    origin = json.loads((experiment / "results" / "origin.json").read_text())
    assert checkpoint_sha256(experiment / "checkpoint") == origin["checkpoint"]
