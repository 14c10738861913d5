"""A model over an LLM of 8 or 4 bits: it loads, trains adapters, and is saved as one over floats is."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers_checkpoint import RATES, TRAINING, outputs, save_tiny_checkpoint, train
from helpers_llm import tiny_model as tiny_transformer
from helpers_llm import tiny_tokenizer
from helpers_model import model_values, single, tiny_batch, tiny_model
from torch import nn
from transformers import AutoModelForCausalLM

from omni_avsr.adapters import ROUTES
from omni_avsr.checkpoint import load_checkpoint, read_info, save_checkpoint
from omni_avsr.config import ModelConfig, from_mapping
from omni_avsr.edge.ledger import MemoryConstants, memory_ledger
from omni_avsr.edge.request import Request
from omni_avsr.llm import load_llm
from omni_avsr.model import OmniAVSR
from omni_avsr.quantization import Int8Embedding, Int8Linear, NF4Linear, Quantised
from omni_avsr.shapes import shaped_model
from omni_avsr.sharding import shard
from omni_avsr.stages import freeze_all_but, set_modes
from omni_avsr.types import Batch, Task

KINDS = ("int8", "nf4")
JOINT = ("projectors.*", "markers.*", "llm.*lora_*")
IDS = torch.tensor([[5, 9, 13, 2, 30, 31], [7, 8, 60, 11, 12, 4]])


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that was trained over float32."""
    folder = tmp_path_factory.mktemp("saved")
    save_tiny_checkpoint(folder)
    return folder / "checkpoint"


def quantised_model(folder: Path, kind: str, **settings: Any) -> OmniAVSR:
    return tiny_model(folder, llm={"quantization": kind}, **settings)


@torch.no_grad()
def over_floats(model: OmniAVSR, folder: Path, **settings: Any) -> OmniAVSR:
    """The same model with the quantised numbers in ordinary layers, and the same adapters."""
    plain = tiny_model(folder, **settings)
    for name, module in model.llm.named_modules():
        if isinstance(module, Quantised):
            target = plain.llm.get_submodule(name)
            target.weight.copy_(module.read(0, len(target.weight), torch.float32))
    own, state = plain.state_dict(), model.state_dict()
    for name in own:
        if not name.startswith("llm.") or ".lora_" in name:
            own[name].copy_(state[name])
    return plain


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
@pytest.mark.parametrize(("kind", "most"), [("int8", 0.05), ("nf4", 0.75)])
def test_an_llm_writes_nearly_what_it_writes_in_floats(kind: Any, most: float, family: str, tmp_path: Path) -> None:
    model = tiny_transformer(family)
    model.save_pretrained(tmp_path)
    tiny_tokenizer(bos=family == "llama").save_pretrained(tmp_path)
    llm = load_llm(str(tmp_path), quantization=kind)
    layers = [type(layer) for layer in llm.model.get_decoder().modules() if isinstance(layer, nn.Linear)]
    assert layers == [Int8Linear if kind == "int8" else NF4Linear] * 14
    assert isinstance(llm.model.get_input_embeddings(), Int8Embedding)
    assert llm.model.lm_head.weight is llm.model.get_input_embeddings().weight
    assert not any(parameter.requires_grad for parameter in llm.model.parameters())
    with torch.no_grad():
        expected, found = model(IDS).logits, llm.model(IDS).logits
    assert 0 < float((found - expected).norm() / expected.norm()) < most
    assert llm.embedding_std == pytest.approx(load_llm(str(tmp_path)).embedding_std, rel=0.01)


@pytest.mark.parametrize("kind", KINDS)
def test_matrices_that_are_not_tied_stay_two(kind: Any, tmp_path: Path) -> None:
    config = tiny_transformer().config
    config.tie_word_embeddings = False
    model = AutoModelForCausalLM.from_config(config).eval()
    model.save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    llm = load_llm(str(tmp_path), quantization=kind).model
    assert llm.lm_head.weight is not llm.get_input_embeddings().weight
    for found, exact in (
        (llm.lm_head, model.lm_head.weight),
        (llm.get_input_embeddings(), model.get_input_embeddings().weight),
    ):
        exact = exact.detach()
        error = found.read(0, len(exact), torch.float32) - exact
        assert 0 < float(error.norm() / exact.norm()) < 0.01


@pytest.mark.parametrize("strategy", ROUTES)
@pytest.mark.parametrize("kind", KINDS)
def test_losses_and_gradients_are_those_over_the_same_numbers_as_floats(kind: str, strategy: str, models: Path) -> None:
    settings = {"adapters": {"strategy": strategy}}
    model = quantised_model(models, kind, **settings)
    outputs(model, tiny_batch())  # text is written between steps of training too
    results = []
    for one in (model, over_floats(model, models, **settings)):
        freeze_all_but(one, JOINT)
        set_modes(one)
        batch = tiny_batch()
        step = one.loss(one.encode(batch.inputs), batch.texts, RATES, dict.fromkeys(Task, 1.0), batch.num_label_tokens)
        step.loss.backward()
        gradients = {name: p.grad for name, p in one.named_parameters() if p.grad is not None}
        results.append((step, gradients))
    (found, ours), (expected, exact) = results
    for task, loss in expected.task_losses.items():
        assert float(found.task_losses[task]) == pytest.approx(float(loss), rel=1e-4)
    assert ours.keys() == exact.keys()
    assert {name.split(".")[-2] for name in ours if ".lora_A." in name} == {
        n for r in ROUTES[strategy].values() for n in r
    }
    for name, gradient in exact.items():
        torch.testing.assert_close(ours[name], gradient, rtol=1e-3, atol=1e-5, msg=name)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_trained_over_quantised_weights_comes_back_and_says_so(
    kind: str, checkpointing: bool, models: Path, tmp_path: Path
) -> None:
    model = quantised_model(models, kind)
    if checkpointing:
        model.router.enable_gradient_checkpointing(model.llm)
    before = outputs(model, tiny_batch())
    save_checkpoint(tmp_path / "checkpoint", model, train(model), TRAINING)
    after = outputs(model, tiny_batch())
    assert after != before
    info = read_info(tmp_path / "checkpoint")
    assert info.model.llm.quantization == kind
    assert info.model.llm.sha256 == model.text.weights.sha256()
    loaded = load_checkpoint(tmp_path / "checkpoint")
    assert outputs(loaded, tiny_batch()) == after
    # What stands in it is small: none of the base.
    names = json.loads((tmp_path / "checkpoint" / "adapters" / "shared" / "adapter_config.json").read_text())
    assert names["base_model_name_or_path"] == model.config.llm.weights
    floats = load_checkpoint(tmp_path / "checkpoint", quantization="none")
    assert not any(isinstance(module, Quantised) for module in floats.modules())
    losses, expected = outputs(floats, tiny_batch())[0], after[0]
    assert losses == pytest.approx(expected, rel=0.1)
    assert losses != expected


@pytest.mark.parametrize(("kind", "most"), [("int8", 0.01), ("nf4", 0.1)])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_checkpoint_of_floats_loads_quantised(dtype: Any, kind: Any, most: float, saved: Path) -> None:
    exact, found = (outputs(load_checkpoint(saved, dtype, q), tiny_batch())[0] for q in (None, kind))
    assert found == pytest.approx(exact, rel=most)
    assert found != exact


@pytest.mark.parametrize("kind", [None, *KINDS])
def test_adapters_beside_quantised_weights_are_in_the_dtype_of_the_llm(kind: Any, saved: Path) -> None:
    model = load_checkpoint(saved, "bfloat16", kind)
    adapters = [value for name, value in model.named_parameters() if ".lora_" in name]
    assert {value.dtype for value in adapters} == {torch.float32 if kind is None else torch.bfloat16}
    config = replace(model.config, llm=replace(model.config.llm, quantization=None))
    ledger = memory_ledger(shaped_model(config, 0, "meta", tiny_transformer().config.to_diff_dict()), "bfloat16", kind)
    assert ledger.adapters_in_use == sum(value.nbytes for value in adapters)
    nothing = MemoryConstants(libraries=0, overhead=0, scale=1.0)
    stages = ledger.transcribing(Request(Task.AVSR, RATES, 3.0), nothing).stages
    assert stages["tokens"]["adapters"] == ledger.adapters_in_use
    assert stages["reading"]["adapters"] == 4 * sum(value.numel() for value in adapters)


@pytest.mark.parametrize("kind", KINDS)
def test_batches_give_what_single_clips_do(kind: Any, saved: Path) -> None:
    model, batch = load_checkpoint(saved, quantization=kind), tiny_batch()
    for task in Task:
        alone = [texts_of(model, single(batch, row), task) for row in range(len(batch))]
        assert [text for texts in alone for text in texts] == texts_of(model, batch, task)


def texts_of(model: OmniAVSR, batch: Batch, task: Task) -> list[str]:
    return model.generate(model.encode(batch.inputs), task, RATES, max_new_tokens=6)


def test_own_weights_of_the_llm_that_were_trained_are_not_quantised(models: Path, tmp_path: Path) -> None:
    model = tiny_model(models)
    trained = train(model, [*JOINT, "llm.model.norm.*"])
    save_checkpoint(tmp_path / "checkpoint", model, trained, TRAINING)
    load_checkpoint(tmp_path / "checkpoint")
    for settings in ({"quantization": "int8"}, {"merged_task": Task.ASR}):
        with pytest.raises(ValueError, match=r"1 trained weights of the LLM itself, such as llm\.model\.norm\.weight"):
            load_checkpoint(tmp_path / "checkpoint", **settings)


def test_quantised_weights_cannot_be_trained_or_sharded(models: Path) -> None:
    model = quantised_model(models, "int8")
    with pytest.raises(ValueError, match=r"weights to train are quantised, such as llm\."):
        freeze_all_but(model, ["llm.*"])
    with pytest.raises(ValueError, match=r"set model\.llm\.quantization=null"):
        shard(model, None, ())  # type: ignore[arg-type]  # no processes are needed to be refused


def test_weights_that_are_no_safetensors_are_refused_and_load_as_floats(tmp_path: Path) -> None:
    model = tiny_transformer()
    model.save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    expected = load_llm(str(tmp_path)).model.state_dict()
    (tmp_path / "model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    found = load_llm(str(tmp_path)).model.state_dict()
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    with pytest.raises(ValueError, match=r"there is no model.embed_tokens.weight. Save it with transformers"):
        load_llm(str(tmp_path), quantization="int8")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_models_of_random_weights_are_quantised_too(device: str, kind: str, models: Path) -> None:
    config = from_mapping(ModelConfig, model_values(models, llm={"quantization": kind, "dtype": "bfloat16"}))
    model = shaped_model(config, 0, device, tiny_transformer().config.to_diff_dict())
    assert sum(isinstance(module, Quantised) for module in model.llm.modules()) == 16
    assert {value.device.type for value in model.parameters()} == {device}
    if device == "cpu":
        losses = outputs(model, tiny_batch())[0]
        assert (
            losses
            == outputs(shaped_model(config, 0, device, tiny_transformer().config.to_diff_dict()), tiny_batch())[0]
        )
        assert all(0 < loss < 20 for loss in losses.values())


def test_a_checkpoint_says_nothing_new_about_weights_as_floats(saved: Path, tmp_path: Path) -> None:
    """One from before there was quantisation is read as it was."""
    old = Path(shutil.copytree(saved, tmp_path / "old"))
    config = json.loads((old / "config.json").read_text())
    del config["model"]["llm"]["quantization"]
    (old / "config.json").write_text(json.dumps(config))
    assert outputs(load_checkpoint(old), tiny_batch()) == outputs(load_checkpoint(saved), tiny_batch())
