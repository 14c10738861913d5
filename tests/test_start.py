"""Starting from a checkpoint: which tensors a run takes over, what it says of them, and what it refuses."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers_llm import save_tiny_llm
from helpers_model import run_config, run_values, stage_tensors, stage_values, write_corpus

from omni_avsr.checkpoint import load_checkpoint, stored_tensors
from omni_avsr.config import ModelConfig, from_mapping
from omni_avsr.run import RunConfig, run
from omni_avsr.start import StartConfig, start_tensors


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("start")
    write_corpus(made / "corpus")
    return made


@pytest.fixture(scope="module")
def first(folder: Path) -> RunConfig:
    """A finished run that trained the video encoder and everything around the LLM."""
    stages = {"video_ctc": stage_values("video_ctc", 2), "joint": stage_values("joint", 2)}
    config = run_config(folder, folder / "first", stages, checkpoint_dtype="float32")
    run(config)
    return config


def started(folder: Path, name: str, first: RunConfig, parts: list[str], **stages: Any) -> RunConfig:
    start = {"checkpoint": str(first.output / "checkpoint"), "parts": parts}
    return run_config(folder, folder / name, stages, start=start, checkpoint_dtype="float32")


def test_stored_tensors_bear_the_names_of_the_model(first: RunConfig) -> None:
    state = load_checkpoint(first.output / "checkpoint").state_dict()
    tensors = stored_tensors(first.output / "checkpoint")
    assert {name for name in tensors if ".lora_" in name} == {name for name in state if ".lora_" in name}
    assert all(torch.equal(state[name], value) for name, value in tensors.items())


def test_a_run_goes_on_from_the_chosen_parts_and_keeps_them_in_its_checkpoint(folder: Path, first: RunConfig) -> None:
    parts = ["encoders.video.*", "llm.*lora_*"]
    config = started(folder, "second", first, parts, projector=stage_values("projector", 1))
    run(config)
    before, after = (stored_tensors(each.output / "checkpoint") for each in (first, config))
    kept = [name for name in before if name.startswith("encoders.video.") or ".lora_" in name]
    assert len(kept) > 20
    assert all(torch.equal(before[name], after[name]) for name in kept)
    assert not torch.equal(before["markers.weight"], after["markers.weight"])
    training = json.loads((config.output / "checkpoint" / "config.json").read_text())["training"]
    assert training["start"]["parts"] == parts
    assert [record["stage"] for record in training["start"]["training"]["records"]] == ["video_ctc", "joint"]


def test_an_encoder_stage_starts_from_the_checkpoints_encoder(folder: Path, first: RunConfig) -> None:
    config = started(folder, "encoder", first, ["encoders.video.*"], more=stage_values("video_ctc", 1))
    run(config)
    before, after = stored_tensors(first.output / "checkpoint"), stage_tensors(config.output)["0-more"]
    # One step of Adam moves no weight further than its learning rate.
    reach = 2 * config.stages["more"].optimizer.lr
    weights = [name for name in after if name.endswith("weight")]
    assert weights
    assert all((before[name] - after[name]).abs().max() < reach for name in weights)


def test_a_run_from_another_checkpoint_or_other_parts_is_another_run(folder: Path, first: RunConfig) -> None:
    config = started(folder, "bound", first, ["encoders.video.*"], more=stage_values("video_ctc", 1))
    run(config)
    assert config.start is not None
    with pytest.raises(ValueError, match="holds results of another start"):
        run(replace(config, start=replace(config.start, parts=("encoders.*",))))


def test_a_part_that_is_not_there_is_an_error(folder: Path, first: RunConfig) -> None:
    model = from_mapping(ModelConfig, run_values(folder, folder, {})["model"])
    with pytest.raises(ValueError, match=r"'decoder\.\*' matches no part of .*checkpoint; there are encoders\.audio"):
        start_tensors(StartConfig(first.output / "checkpoint", ("decoder.*",)), model)
    with pytest.raises(ValueError, match="is no checkpoint"):
        start_tensors(StartConfig(folder), model)


def test_parts_that_the_model_lacks_are_refused_before_training(folder: Path, first: RunConfig) -> None:
    config = started(folder, "lacking", first, ["*"], joint=stage_values("joint", 1))
    shared = replace(config.model, adapters=replace(config.model.adapters, strategy="shared"))
    with pytest.raises(ValueError, match=r"tensors do not fit this model .*lora_A\.asr"):
        run(replace(config, model=shared))
    assert not stage_tensors(config.output)


def test_adapters_do_not_move_to_another_base_model(folder: Path, first: RunConfig) -> None:
    save_tiny_llm(folder / "other", "llama", seed=5)
    model = from_mapping(ModelConfig, run_values(folder, folder, {})["model"])
    model = replace(model, llm=replace(model.llm, weights=str(folder / "other")))
    checkpoint = first.output / "checkpoint"
    with pytest.raises(ValueError, match=r"was trained upon .* give the same weights"):
        start_tensors(StartConfig(checkpoint, ("*",)), model)
    assert start_tensors(StartConfig(checkpoint, ("encoders.*",)), model)
