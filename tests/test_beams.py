"""Beams that share their prompt: the ids of transformers' own search, for one pass over each prompt."""

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers_llm import tiny_model as tiny_causal_lm
from helpers_model import tiny_batch, tiny_model
from torch import Tensor
from transformers import Gemma3ForCausalLM, Gemma3TextConfig, PreTrainedModel

from benchmarks.decoding import PassCounter
from omni_avsr.beams import shared_prompt
from omni_avsr.types import Rates, Task

LENGTH = 12


def prompts(seed: int) -> tuple[Tensor, Tensor]:
    """Three prompts of unequal length, padded at the left."""
    mask = torch.ones(3, 9, dtype=torch.int64)
    mask[0, :5] = mask[2, :2] = 0
    return torch.randn(3, 9, 32, generator=torch.Generator().manual_seed(seed)), mask


def sliding() -> PreTrainedModel:
    """A random Gemma 3, whose layers forget what lies further back than four positions."""
    config = Gemma3TextConfig(
        vocab_size=96,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=6,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        sliding_window=4,
        initializer_range=2.0,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Gemma3ForCausalLM(config).eval()


@pytest.mark.parametrize("num_beams", [2, 5])
@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "gemma3"])
@torch.no_grad()
def test_the_ids_are_those_of_transformers_own_search(family: str, num_beams: int) -> None:
    for seed in range(3):
        llm: Any = sliding() if family == "gemma3" else tiny_causal_lm(family, seed=seed)
        embeds, mask = prompts(seed)
        settings = {"num_beams": num_beams, "max_new_tokens": LENGTH, "eos_token_id": 7, "pad_token_id": 7}
        own = llm.generate(inputs_embeds=embeds, attention_mask=mask, do_sample=False, **settings)
        cache = shared_prompt(llm, embeds, mask, num_beams)
        found = llm.generate(inputs_embeds=embeds, attention_mask=mask, do_sample=False, **settings, **cache)
        assert torch.equal(found, own)
        assert len({tuple(row) for row in own.tolist()}) > 1


@torch.no_grad()
def test_a_prompt_is_read_once_for_all_beams(tmp_path: Path) -> None:
    model = tiny_model(tmp_path)
    features = model.encode(tiny_batch().inputs)
    shapes = []
    layer = model.llm.get_decoder().layers[0]
    layer.register_forward_pre_hook(lambda _, args: shapes.append(tuple(args[0].shape[:2])))
    model.generate_ids(features, Task.AVSR, Rates(2, 3), num_beams=4, max_new_tokens=3)
    assert shapes[0][0] == 3
    assert shapes[0][1] > 10
    assert shapes[1:] == [(12, 1)] * 3


@torch.no_grad()
def test_the_benchmark_counts_a_prompt_once_however_it_is_read(tmp_path: Path) -> None:
    model = tiny_model(tmp_path)
    features = model.encode(tiny_batch().inputs)
    counter = PassCounter(model.llm)
    counted = []
    for num_beams in (1, 4):
        counter.reset()
        model.generate_ids(features, Task.AVSR, Rates(2, 3), num_beams, max_new_tokens=3)
        counted.append((counter.prompt_positions, counter.passes))
    assert counted[0][0] == counted[1][0] > 10
    assert [passes for _, passes in counted] == [3, 4]
