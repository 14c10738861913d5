"""Saving, sharing and loading checkpoints in Hugging Face's conventions."""

import json
import shutil
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from helpers_checkpoint import TRAINING, random_audio, random_video, save_tiny_checkpoint, write_muxed
from huggingface_hub import ModelCard
from huggingface_hub.errors import LocalEntryNotFoundError
from peft import PeftModel
from transformers import AutoModelForCausalLM

import omni_avsr
from omni_avsr.checkpoint import read_info
from omni_avsr.config import LLMConfig, ModelConfig, WhisperConfig
from omni_avsr.hub import checkpoint_folder, push_to_hub
from omni_avsr.model_card import model_card
from omni_avsr.transcribe import Transcriber

RECORD = {
    "stage": "joint",
    "seed": 1,
    "commit": "abc123",
    "date": "2026-01-31",
    "steps": 900,
    "seconds": 5400.0,
    "num_trainable": 1234567,
    "metrics": {"validation/loss": 0.4, "validation/asr_4_wer": 0.0125},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sharing")
    save_tiny_checkpoint(folder)
    write_muxed(folder / "clip.mkv", random_audio(11, 1), random_video(11, 1))
    return folder


def test_a_saved_model_is_the_same_and_replaces_what_was_there(folder: Path, tmp_path: Path) -> None:
    first = Transcriber.from_pretrained(folder / "checkpoint")
    for _ in range(2):
        first.save_pretrained(tmp_path / "copy")
    second = omni_avsr.load(tmp_path / "copy")
    assert second.training == TRAINING
    state = second.model.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in first.model.state_dict().items())
    assert second.transcribe(folder / "clip.mkv") == first.transcribe(folder / "clip.mkv")


def test_what_was_trained_of_a_base_model_and_its_precision_are_kept(tmp_path: Path) -> None:
    save_tiny_checkpoint(tmp_path)
    config = tmp_path / "checkpoint" / "config.json"
    values = json.loads(config.read_text())
    values["training"]["stored as"] = "float16"
    config.write_text(json.dumps(values))
    loaded = omni_avsr.load(tmp_path / "checkpoint")
    changed = Transcriber(loaded.model, loaded.training, None, ("llm.model.norm.weight",))
    changed.model.llm.model.norm.weight.data.fill_(0.5)
    changed.save_pretrained(tmp_path / "copy")
    assert read_info(tmp_path / "copy").trained_base == ("llm.model.norm.weight",)
    again = omni_avsr.load(tmp_path / "copy")
    assert bool((again.model.llm.model.norm.weight == 0.5).all())
    assert again.trained_base == changed.trained_base
    sizes = [(tmp_path / name / "trained.safetensors").stat().st_size for name in ("checkpoint", "copy")]
    assert sizes[1] < 0.6 * sizes[0]


def test_peft_alone_loads_an_adapter(folder: Path) -> None:
    config = json.loads((folder / "checkpoint" / "adapters" / "shared" / "adapter_config.json").read_text())
    base = AutoModelForCausalLM.from_pretrained(config["base_model_name_or_path"])
    model = PeftModel.from_pretrained(base, str(folder / "checkpoint" / "adapters" / "shared"))
    loaded = omni_avsr.load(folder / "checkpoint").model.llm.state_dict()
    found = {name: value for name, value in model.state_dict().items() if "lora_" in name}
    assert found
    for name, value in found.items():
        own = name.removeprefix("base_model.model.").replace(".default.", ".shared.")
        assert torch.equal(value, loaded[own]), name


def test_the_card_tells_what_the_checkpoint_records(folder: Path) -> None:
    card = ModelCard.load(folder / "checkpoint" / "README.md")
    assert card.data.library_name == "omni_avsr"
    assert "**Domain**: ten made-up words." in card.text
    assert str(read_info(folder / "checkpoint").model.llm.sha256) in card.text
    assert "## Training" not in card.text


def test_a_card_names_bases_of_the_hub_and_the_stages() -> None:
    model = ModelConfig(
        llm=LLMConfig("meta-llama/Llama-3.2-1B", sha256="1" * 64),
        audio_encoder=WhisperConfig("openai/whisper-tiny.en", sha256="2" * 64),
    )
    start = {"parts": ["encoders.*"], "checkpoint_sha256": "3" * 64}
    counted = RECORD | {
        "stage": "later",
        "flops": {"forward": {"llm": 1e15}, "backward": {"llm": 2e15, "logits": 5e14}},
    }
    text = model_card(model, {"domain": "read speech", "records": [RECORD, counted], "start": start})
    card = ModelCard(text)
    assert card.data.base_model == ["meta-llama/Llama-3.2-1B", "openai/whisper-tiny.en"]
    assert "| joint | 900 | 1,234,567 | 1.50 | unknown | asr_4_wer 0.013 | abc123 | 2026-01-31 |" in text
    assert "| later | 900 | 1,234,567 | 1.50 | 3,500 | asr_4_wer 0.013 | abc123 | 2026-01-31 |" in text
    assert f"It started from encoders.* of the checkpoint with sha256 {'3' * 64}." in text
    assert "Tasks: ASR. " in text
    local = ModelConfig(llm=LLMConfig("pip:package/model.gguf"), audio_encoder=model.audio_encoder)
    assert ModelCard(model_card(local, {})).data.base_model == ["openai/whisper-tiny.en"]


def test_a_hub_id_is_downloaded_and_a_folder_goes_before_it(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def download(reference: str, **settings: Any) -> str:
        asked.append((reference, settings["revision"]))
        return str(folder / "checkpoint")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    monkeypatch.chdir(tmp_path)
    model = omni_avsr.load("someone/avsr-model")
    assert asked == [("someone/avsr-model", None)]
    assert model.transcribe(folder / "clip.mkv") == omni_avsr.load(folder / "checkpoint").transcribe(
        folder / "clip.mkv"
    )
    shutil.copytree(folder / "checkpoint", tmp_path / "someone" / "avsr-model")
    assert checkpoint_folder("someone/avsr-model") == Path("someone/avsr-model")
    assert len(asked) == 1


def test_without_the_hub_the_message_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fail(reference: str, **settings: Any) -> str:
        raise LocalEntryNotFoundError("offline")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(ValueError, match="no such local folder, and the Hugging Face Hub did not give it"):
        omni_avsr.load("someone/avsr-model")
    with pytest.raises(ValueError, match="is no checkpoint"):
        omni_avsr.load(tmp_path / "nothing")


def test_pushing_uploads_the_folder(folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    calls = []

    class Interface:
        def create_repo(self, repo_id: str, **settings: Any) -> None:
            calls.append(("create", repo_id, settings["private"]))

        def upload_folder(self, repo_id: str, folder_path: Path, **settings: Any) -> str:
            names = sorted(path.relative_to(folder_path).as_posix() for path in Path(folder_path).rglob("*.json"))
            calls.append(("upload", repo_id, names))
            return f"https://hub/{repo_id}/commit/1"

    monkeypatch.setattr(huggingface_hub, "HfApi", Interface)
    assert omni_avsr.load(folder / "checkpoint").push_to_hub("someone/model") == "https://hub/someone/model/commit/1"
    adapters = [f"adapters/{name}/adapter_config.json" for name in ("asr", "avsr", "shared", "vsr")]
    assert calls == [("create", "someone/model", True), ("upload", "someone/model", [*adapters, "config.json"])]
    with pytest.raises(ValueError, match="is no checkpoint"):
        push_to_hub(tmp_path, "someone/model")
    monkeypatch.setattr(Interface, "create_repo", lambda *_, **__: (_ for _ in ()).throw(OSError("no network")))
    with pytest.raises(ValueError, match="could not be pushed to someone/model: no network"):
        push_to_hub(folder / "checkpoint", "someone/model")


def test_saving_keeps_what_is_no_part_of_a_checkpoint(folder: Path, tmp_path: Path) -> None:
    """Such as the files of a repository that was cloned to be filled."""
    clone = tmp_path / "clone"
    (clone / ".git").mkdir(parents=True)
    (clone / ".git" / "HEAD").write_text("ref: refs/heads/main")
    (clone / ".gitattributes").write_text("*.safetensors filter=lfs")
    model = omni_avsr.load(folder / "checkpoint")
    for _ in range(2):
        model.save_pretrained(clone)
        assert (clone / ".git" / "HEAD").read_text() == "ref: refs/heads/main"
        assert (clone / ".gitattributes").is_file()
    assert omni_avsr.load(clone).training == TRAINING


def test_saving_over_other_files_of_the_same_names_is_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("mine")
    with pytest.raises(ValueError, match=r"is no checkpoint and holds README\.md, which would be replaced"):
        omni_avsr.load(folder / "checkpoint").save_pretrained(tmp_path)
    assert (tmp_path / "README.md").read_text() == "mine"


def test_errors_of_the_hubs_http_library_are_told_as_ours(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class ConnectError(Exception):
        pass

    def fail(*_: Any, **__: Any) -> None:
        raise ConnectError("no route to host")

    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", fail)
    with pytest.raises(ValueError, match="could not be pushed to someone/model: no route to host"):
        omni_avsr.load(folder / "checkpoint").push_to_hub("someone/model")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(ValueError, match=r"the Hugging Face Hub did not give it \(ConnectError\)"):
        omni_avsr.load("someone/avsr-model", revision="v2")
