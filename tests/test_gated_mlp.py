"""Lean feed-forward layers: transformers' own numbers, bit for bit, and a third less kept for the backward pass."""

import copy

import pytest
import torch
from helpers_llm import tiny_model
from torch import Tensor, nn

from omni_avsr.gated_mlp import LeanLlamaMLP, LeanQwen2MLP, use_lean_mlps


@pytest.mark.parametrize(("family", "kind"), [("llama", LeanLlamaMLP), ("qwen2", LeanQwen2MLP)])
def test_losses_and_gradients_are_those_of_transformers(family: str, kind: type[nn.Module]) -> None:
    plain = tiny_model(family).requires_grad_(False)
    lean = copy.deepcopy(plain)
    use_lean_mlps(lean)
    assert sum(type(module) is kind for module in lean.modules()) == plain.config.num_hidden_layers
    embeds = torch.randn(2, 9, plain.config.hidden_size)
    found: list[tuple[Tensor, Tensor, int]] = []
    for model in (plain, lean):
        own, kept = embeds.clone().requires_grad_(), []
        hooks = torch.autograd.graph.saved_tensors_hooks(lambda t, kept=kept: kept.append(t.shape) or t, lambda t: t)
        with hooks:
            logits = model(inputs_embeds=own).logits
        logits.square().sum().backward()
        assert own.grad is not None
        found.append((logits, own.grad, kept.count((2, 9, plain.config.intermediate_size))))
    assert torch.equal(found[0][0], found[1][0])
    torch.testing.assert_close(found[0][1], found[1][1])
    assert found[1][2] == 2 * plain.config.num_hidden_layers
    assert found[0][2] > found[1][2]
