"""Adapters merged into the LLM's weights: the same outputs as through the router, whole, quantised and exported."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers_checkpoint import RATES, save_tiny_checkpoint
from helpers_model import tiny_batch
from peft.tuners.lora import LoraLayer
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from omni_avsr.adapters import ROUTES
from omni_avsr.checkpoint import load_checkpoint, save_checkpoint
from omni_avsr.cli.main import main
from omni_avsr.llm_export import export_llm
from omni_avsr.model import OmniAVSR
from omni_avsr.quantization import NF4Linear
from omni_avsr.types import Task

IDS = torch.tensor([[5, 9, 13, 2, 30, 31], [7, 8, 60, 11, 12, 4]])


@pytest.fixture(scope="module", params=ROUTES)
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of each strategy."""
    folder = tmp_path_factory.mktemp(request.param)
    save_tiny_checkpoint(folder, adapters={"strategy": request.param})
    return folder / "checkpoint"


@torch.no_grad()
def logits(model: OmniAVSR, task: Task) -> Tensor:
    with model.router.route(task):
        return model.llm(IDS, use_cache=False).logits.float()


@torch.no_grad()
def loss(model: OmniAVSR, task: Task) -> float:
    batch = tiny_batch()
    step = model.loss(model.encode(batch.inputs), batch.texts, RATES, {task: 1.0}, batch.num_label_tokens)
    return float(step.loss)


@pytest.mark.parametrize("task", Task)
def test_a_merged_model_gives_what_the_routed_one_does(task: Task, saved: Path) -> None:
    routed, merged = load_checkpoint(saved), load_checkpoint(saved, merged_task=task)
    assert not any(isinstance(module, LoraLayer) for module in merged.llm.modules())
    torch.testing.assert_close(logits(merged, task), logits(routed, task), rtol=0, atol=1e-4)
    assert loss(merged, task) == pytest.approx(loss(routed, task), abs=1e-4)
    features = routed.encode(tiny_batch().inputs)
    written = [model.generate(features, task, RATES, max_new_tokens=8) for model in (routed, merged)]
    assert written[0] == written[1]
    # Adapters count: without them it is another model.
    with torch.no_grad():
        assert float((logits(merged, task) - routed.llm(IDS, use_cache=False).logits).abs().max()) > 1e-2


@pytest.mark.parametrize(("kind", "most"), [("int8", 0.02), ("nf4", 0.1)])
def test_a_merged_and_quantised_model_is_near(kind: Any, most: float, saved: Path) -> None:
    routed, merged = load_checkpoint(saved), load_checkpoint(saved, quantization=kind, merged_task=Task.AVSR)
    assert any(isinstance(module, NF4Linear) for module in merged.llm.modules()) == (kind == "nf4")
    exact, found = (loss(model, Task.AVSR) for model in (routed, merged))
    assert found == pytest.approx(exact, rel=most)
    assert found != exact


def test_a_merged_model_does_its_task_alone_and_is_not_saved(saved: Path, tmp_path: Path) -> None:
    merged = load_checkpoint(saved, merged_task=Task.VSR)
    features = merged.encode(tiny_batch().inputs)
    with pytest.raises(ValueError, match="adapters of vsr are merged into this model, it cannot do asr"):
        merged.generate(features, Task.ASR, RATES)
    with pytest.raises(ValueError, match="load the checkpoint without merging to save it"):
        save_checkpoint(tmp_path / "checkpoint", merged, {}, {})


@pytest.mark.parametrize("task", Task)
def test_an_exported_llm_is_one_of_transformers_with_the_logits_of_the_model(
    task: Task, saved: Path, tmp_path: Path
) -> None:
    export_llm(saved, task, tmp_path / "llm")
    model, tokenizer = (kind.from_pretrained(tmp_path / "llm") for kind in (AutoModelForCausalLM, AutoTokenizer))
    routed = load_checkpoint(saved)
    assert model.dtype is torch.float32
    with torch.no_grad():
        torch.testing.assert_close(model(IDS).logits, logits(routed, task), rtol=0, atol=1e-4)
    assert tokenizer("bin blue", add_special_tokens=False).input_ids == routed.text.encode("bin blue")
    readme = (tmp_path / "llm" / "README.md").read_text()
    for part in (*(f"projectors.{m}" for m in task.modalities), routed.config.prompts[task], "3 video_end"):
        assert part in readme
    assert [path.name for path in tmp_path.iterdir()] == ["llm"]


def test_the_command_exports_and_refuses_in_one_line(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "new" / "llm"
    arguments = ["--checkpoint", str(saved), "--task", "avsr", "--output", str(output), "--dtype", "bfloat16"]
    monkeypatch.setattr(sys, "argv", ["omni-avsr", "export-llm", *arguments])
    main()
    assert AutoModelForCausalLM.from_pretrained(output).dtype is torch.bfloat16
    monkeypatch.setattr(sys, "argv", ["omni-avsr", "export-llm", *arguments])
    with pytest.raises(SystemExit, match=r"omni-avsr export-llm: .* exists already"):
        main()


def test_a_task_without_encoders_and_adapters_of_another_scale_are_refused(tmp_path: Path) -> None:
    save_tiny_checkpoint(tmp_path, video_encoder=None)
    folder = tmp_path / "checkpoint"
    with pytest.raises(ValueError, match="this checkpoint is for asr, not for avsr"):
        load_checkpoint(folder, merged_task=Task.AVSR)
    config = folder / "config.json"
    config.write_text(config.read_text().replace('"alpha": 4.0', '"alpha": 5.0'))
    with pytest.raises(ValueError, match=r"has rank 2 and alpha 4\.0, expected 2 and 5\.0"):
        load_checkpoint(folder, merged_task=Task.ASR)
