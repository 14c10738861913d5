"""Omni-LoRA: every adapter learns from one summed backward, routes change outputs and nothing else, files fit peft."""

import copy
import json
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from helpers_llm import HIDDEN_SIZE, KV_DIM, NUM_LAYERS, tiny_model
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel

from omni_avsr.adapters import (
    ROUTES,
    AdapterRouter,
    adapter_names,
    adapter_parameters,
    adapter_state,
    add_adapters,
    load_adapter,
    load_adapter_state,
    save_adapter,
)
from omni_avsr.config import AdapterConfig
from omni_avsr.types import Task

STRATEGIES = ("shared", "task_specific", "hybrid")
IDS = torch.tensor([[5, 9, 13, 2, 30, 31], [7, 8, 60, 11, 12, 4]])


def adapted(
    strategy: str = "hybrid", random_b: bool = True, family: str = "llama", **settings
) -> tuple[PreTrainedModel, AdapterRouter]:
    """A tiny model with adapters; B is random unless asked otherwise, as after some training."""
    model = tiny_model(family)
    config = AdapterConfig(strategy=strategy, **({"rank": 3, "alpha": 12.0} | settings))
    router = add_adapters(model, config, torch.Generator().manual_seed(1))
    if random_b:
        generator = torch.Generator().manual_seed(2)
        for parameter in trainable(model).values():
            parameter.data.normal_(std=0.3, generator=generator)
    return model, router


def trainable(model: PreTrainedModel) -> dict[str, torch.nn.Parameter]:
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def logits(model: PreTrainedModel, router: AdapterRouter, task: Task | None) -> Tensor:
    with torch.no_grad(), router.route(task) if task else nullcontext():
        return model(IDS, use_cache=False).logits


def summed_gradients(model: PreTrainedModel, router: AdapterRouter) -> dict[str, Tensor]:
    """One backward over the sum of three tasks' losses, run outside any route."""
    loss = torch.zeros(())
    for weight, task in enumerate(Task, start=1):
        with router.route(task):
            loss = loss + weight * model(IDS, labels=IDS.roll(weight), use_cache=False).loss
    assert router.active == ()
    loss.backward()
    assert router.active == ()
    return {name: parameter.grad for name, parameter in trainable(model).items() if parameter.grad is not None}


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_adapter_has_a_gradient_after_one_summed_backward(
    strategy: str, checkpointing: bool, family: str
) -> None:
    model, router = adapted(strategy, family=family)
    if checkpointing:
        router.enable_gradient_checkpointing(model)
    gradients = summed_gradients(model, router)
    num_adapters = {"shared": 1, "task_specific": 3, "hybrid": 4}[strategy]
    assert len(gradients) == len(trainable(model)) == num_adapters * NUM_LAYERS * 2 * 2
    assert all(gradient.abs().max() > 0 for gradient in gradients.values())


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_checkpointing_changes_no_gradient_and_recomputes_each_layer(strategy: str) -> None:
    plain, checkpointed = adapted(strategy), adapted(strategy)
    checkpointed[1].enable_gradient_checkpointing(checkpointed[0])
    checkpointed[1].enable_gradient_checkpointing(checkpointed[0])  # twice is once
    routes_seen = []
    layer = checkpointed[0].model.layers[1].self_attn.q_proj
    layer.register_forward_pre_hook(lambda *_: routes_seen.append(checkpointed[1].active))
    expected, found = summed_gradients(*plain), summed_gradients(*checkpointed)
    routes = [ROUTES[strategy][task] for task in Task]
    assert routes_seen == routes + routes[::-1]
    assert expected.keys() == found.keys()
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-6, atol=1e-8, msg=name)


def test_checkpointing_repeats_dropout_and_allows_a_second_backward() -> None:
    model, router = adapted(dropout=0.5)
    model.train()
    router.enable_gradient_checkpointing(model)
    torch.manual_seed(3)
    with router.route(Task.AVSR):
        loss = model(IDS, labels=IDS, use_cache=False).loss
    weights = list(adapter_parameters(model, "avsr").values())
    first = torch.autograd.grad(loss, weights, retain_graph=True)
    torch.rand(7)
    assert all(map(torch.equal, first, torch.autograd.grad(loss, weights)))


def test_checkpointing_leaves_generation_alone_and_refuses_a_cache_with_gradients() -> None:
    model, router = adapted()
    expected = generate(model, router, Task.VSR)
    router.enable_gradient_checkpointing(model)
    assert torch.equal(generate(model, router, Task.VSR), expected)
    with router.route(Task.VSR), pytest.raises(ValueError, match="use_cache=False"):
        model(IDS, use_cache=True)


def test_a_copy_of_a_checkpointed_model_is_its_own() -> None:
    model, router = adapted()
    router.enable_gradient_checkpointing(model)
    model_copy, router_copy = copy.deepcopy((model, router))
    for parameter in trainable(model).values():
        parameter.data.zero_()
    gradients = summed_gradients(model_copy, router_copy)
    assert all(gradient.abs().max() > 0 for gradient in gradients.values())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_gradient_checkpointing_needs_decoder_layers() -> None:
    _, router = adapted()
    with pytest.raises(ValueError, match="Linear has no layers"):
        router.enable_gradient_checkpointing(torch.nn.Linear(1, 1))


@pytest.mark.parametrize("strategy", ["task_specific", "hybrid"])
def test_tasks_give_different_outputs(strategy: str) -> None:
    model, router = adapted(strategy)
    outputs = [logits(model, router, task) for task in (None, *Task)]
    for index, output in enumerate(outputs):
        assert all((output - other).abs().max() > 1e-3 for other in outputs[index + 1 :])


def test_the_shared_strategy_gives_the_same_output_for_every_task() -> None:
    model, router = adapted("shared")
    outputs = [logits(model, router, task) for task in Task]
    assert torch.equal(outputs[0], outputs[1])
    assert torch.equal(outputs[0], outputs[2])
    assert not torch.allclose(outputs[0], logits(model, router, None), atol=1e-3)


def test_hybrid_adds_the_scaled_outputs_of_the_shared_and_the_task_adapter() -> None:
    model, router = adapted("hybrid", rank=3, alpha=12.0)
    layer = model.model.layers[1].self_attn.v_proj
    x = torch.randn(5, HIDDEN_SIZE, generator=torch.Generator().manual_seed(4))
    expected = layer.base_layer(x)
    for name in ("shared", "vsr"):
        expected = expected + 12.0 / 3 * (x @ layer.lora_A[name].weight.T @ layer.lora_B[name].weight.T)
    with router.route(Task.VSR):
        torch.testing.assert_close(layer(x), expected)


def test_outside_a_route_and_at_the_start_the_model_is_the_base_model() -> None:
    base = tiny_model()(IDS).logits.detach()
    model, router = adapted(random_b=False)
    assert all(torch.equal(logits(model, router, task), base) for task in (None, *Task))
    model, router = adapted()
    assert torch.equal(logits(model, router, None), base)


def test_routes_nest_and_survive_exceptions() -> None:
    model, router = adapted()
    with router.route(Task.ASR):
        with router.route(Task.VSR):
            assert router.active == ("shared", "vsr")
        assert router.active == ("shared", "asr")
        with pytest.raises(ValueError, match="input_ids"), router.route(Task.VSR):
            model()
        assert router.active == ("shared", "asr")
    assert router.active == ()


def test_routing_leaves_requires_grad_alone() -> None:
    model, router = adapted()
    before = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    for task in Task:
        with router.route(task):
            assert {name: parameter.requires_grad for name, parameter in model.named_parameters()} == before
    assert {name: parameter.requires_grad for name, parameter in model.named_parameters()} == before
    assert all((".lora_" in name) == requires_grad for name, requires_grad in before.items())


def generate(model: PreTrainedModel, router: AdapterRouter, task: Task) -> Tensor:
    with router.route(task), torch.no_grad():
        return model.generate(
            IDS[:1], attention_mask=torch.ones_like(IDS[:1]), max_new_tokens=8, do_sample=False, eos_token_id=None
        )


def test_generation_follows_the_route() -> None:
    model, router = adapted()
    for task in Task:
        ids = generate(model, router, task)
        with router.route(task), torch.no_grad():
            predicted = model(ids, use_cache=False).logits.argmax(-1)
        assert torch.equal(ids[:, IDS.shape[1] :], predicted[:, IDS.shape[1] - 1 : -1])
    assert len({tuple(generate(model, router, task)[0].tolist()) for task in Task}) == 3


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_parameters_are_counted_by_true_rank(strategy: str) -> None:
    rank = 5
    model, _ = adapted(strategy, rank=rank)
    per_adapter = NUM_LAYERS * rank * ((HIDDEN_SIZE + HIDDEN_SIZE) + (HIDDEN_SIZE + KV_DIM))
    names = adapter_names(AdapterConfig(strategy=strategy))
    for name in names:
        assert sum(parameter.numel() for parameter in adapter_parameters(model, name).values()) == per_adapter
    assert sum(parameter.numel() for parameter in trainable(model).values()) == per_adapter * len(names)


def test_adapters_follow_the_generator_and_leave_the_global_state_alone() -> None:
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first, _ = adapted(random_b=False)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(6)
    second, _ = adapted(random_b=False)
    assert all(map(torch.equal, trainable(first).values(), trainable(second).values()))
    starts = [weight for name, weight in trainable(first).items() if "lora_A" in name]
    assert all(0 < weight.abs().max() <= HIDDEN_SIZE**-0.5 for weight in starts)
    assert len({round(weight.sum().item(), 6) for weight in starts}) == len(starts)


def test_the_mode_of_the_model_is_the_mode_of_its_adapters() -> None:
    model, router = adapted(dropout=0.5)
    assert not any(module.training for module in model.modules())
    assert torch.equal(logits(model, router, Task.ASR), logits(model, router, Task.ASR))


def test_adapters_of_a_half_precision_model_are_in_float32() -> None:
    model = tiny_model().to(torch.bfloat16)
    router = add_adapters(model, AdapterConfig(), torch.Generator())
    assert {parameter.dtype for parameter in trainable(model).values()} == {torch.float32}
    assert logits(model, router, Task.ASR).dtype == torch.bfloat16


def test_only_the_adapters_of_the_tasks_are_made() -> None:
    model = tiny_model()
    router = add_adapters(model, AdapterConfig(strategy="hybrid"), torch.Generator(), tasks=(Task.ASR,))
    assert {name.split(".")[-2] for name in trainable(model)} == {"shared", "asr"}
    with pytest.raises(ValueError, match=r"\['vsr'\]"), router.route(Task.VSR):
        pass


def test_unknown_target_modules_and_a_second_set_of_adapters_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\['query'\] are not modules of LlamaForCausalLM"):
        adapted(target_modules=("q_proj", "query"))
    model, _ = adapted()
    with pytest.raises(ValueError, match="already"):
        add_adapters(model, AdapterConfig(), torch.Generator())


def test_a_saved_adapter_loads_into_another_model(tmp_path: Path) -> None:
    model, router = adapted()
    other, other_router = adapted(random_b=False)
    for name in adapter_names(AdapterConfig(strategy="hybrid")):
        save_adapter(model, name, tmp_path / name)
        load_adapter(other, name, tmp_path / name)
    assert all(torch.equal(logits(model, router, task), logits(other, other_router, task)) for task in Task)
    assert sorted(file.name for file in (tmp_path / "asr").iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]


@pytest.mark.filterwarnings("error::UserWarning")  # peft warns of missing keys
def test_a_saved_adapter_loads_in_plain_peft(tmp_path: Path) -> None:
    model, router = adapted("task_specific")
    save_adapter(model, "avsr", tmp_path, base_model="owner/name")
    plain = PeftModel.from_pretrained(tiny_model(), tmp_path)
    torch.testing.assert_close(plain(IDS).logits, logits(model, router, Task.AVSR))
    assert plain.peft_config["default"].base_model_name_or_path == "owner/name"


def test_an_adapter_saved_by_peft_loads(tmp_path: Path) -> None:
    model, router = adapted("task_specific")
    save_adapter(model, "asr", tmp_path / "ours")
    plain = PeftModel.from_pretrained(tiny_model(), tmp_path / "ours")
    plain.save_pretrained(tmp_path / "theirs")
    other, other_router = adapted("task_specific", random_b=False)
    load_adapter(other, "asr", tmp_path / "theirs")
    assert torch.equal(logits(other, other_router, Task.ASR), logits(model, router, Task.ASR))


def test_half_precision_halves_the_file_and_loads_back_to_float32(tmp_path: Path) -> None:
    model, _ = adapted()
    save_adapter(model, "asr", tmp_path, dtype=torch.float16)
    assert {weight.dtype for weight in load_file(tmp_path / "adapter_model.safetensors").values()} == {torch.float16}
    expected = {key: weight.half().float() for key, weight in adapter_state(model, "asr").items()}
    load_adapter(model, "asr", tmp_path)
    torch.testing.assert_close(adapter_state(model, "asr"), expected, rtol=0, atol=0)


def test_weights_that_do_not_fit_are_refused_and_nothing_is_copied() -> None:
    model, _ = adapted()
    good = {key: weight.clone() for key, weight in adapter_state(model, "asr").items()}
    first, second, *_ = good
    before = copy.deepcopy(good)
    wrong = {key: weight + 1 for key, weight in good.items()}
    cases = {
        f"missing: {first}": {key: weight for key, weight in wrong.items() if key != first},
        "unexpected: other": wrong | {"other": torch.zeros(1)},
        rf"shape: {second} \[1\] instead of": wrong | {second: torch.zeros(1)},
    }
    for message, state in cases.items():
        with pytest.raises(ValueError, match=message):
            load_adapter_state(model, "asr", state)
    torch.testing.assert_close(adapter_state(model, "asr"), before, rtol=0, atol=0)
    with pytest.raises(ValueError, match="no adapter 'other'"):
        load_adapter_state(model, "other", good)


def test_files_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    model, _ = adapted()
    with pytest.raises(ValueError, match=r"adapter_config\.json is missing"):
        load_adapter(model, "asr", tmp_path)
    save_adapter(model, "asr", tmp_path)
    file = tmp_path / "adapter_config.json"
    settings = json.loads(file.read_text())
    for setting, value in (("lora_alpha", 11.0), ("r", 4), ("use_rslora", True)):
        file.write_text(json.dumps(settings | {setting: value}))
        with pytest.raises(ValueError, match=f"has {setting} {value}"):
            load_adapter(model, "asr", tmp_path)
    file.write_text(json.dumps(settings))
    weights = load_file(tmp_path / "adapter_model.safetensors")
    weights.popitem()
    save_file(weights, tmp_path / "adapter_model.safetensors")
    with pytest.raises(ValueError, match="missing: base_model"):
        load_adapter(model, "asr", tmp_path)
