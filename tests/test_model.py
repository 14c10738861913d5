"""The whole model: padding changes nothing, every part learns from one backward, frozen parts stay as they are."""

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers_model import AUDIO_ENCODERS, TEXTS, single, tiny_batch, tiny_model
from torch import Tensor, nn

from omni_avsr.adapters import ROUTES
from omni_avsr.config import PUBLISHED_TASK_WEIGHTS
from omni_avsr.model import OmniAVSR
from omni_avsr.objectives.recognition import RecognitionObjective
from omni_avsr.stages import RecognitionObjectiveConfig, freeze_all_but, set_modes
from omni_avsr.types import Batch, Features, Modality, Rates, StepOutput, Task

STRATEGIES = tuple(ROUTES)
RATES = Rates(2, 3)
JOINT = ("projectors.*", "markers.*", "llm.*lora_*")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the tiny base models are saved, once for all tests."""
    return tmp_path_factory.mktemp("models")


def loss_of(model: OmniAVSR, batch: Batch, rates: Rates = RATES) -> StepOutput:
    features = model.encode(batch.inputs)
    return model.loss(features, batch.texts, rates, PUBLISHED_TASK_WEIGHTS, batch.num_label_tokens)


def ids_of(model: OmniAVSR, features: dict[Modality, Features], task: Task, num_beams: int = 1) -> list[list[int]]:
    """Generated ids of each clip, up to and with eos."""
    rows: list[Tensor] = []
    generate = model.llm.generate
    model.llm.generate = lambda **kwargs: rows.append(generate(**kwargs)) or rows[-1]
    try:
        model.generate(features, task, RATES, num_beams, max_new_tokens=6)
    finally:
        del model.llm.generate
    eos = model.text.eos_id
    return [row[: row.index(eos) + 1] if eos in row else row for row in rows[0].tolist()]


def joint_model(folder: Path, **settings: Any) -> OmniAVSR:
    """Ready for the joint stage."""
    model = tiny_model(folder, **settings)
    freeze_all_but(model, JOINT)
    set_modes(model)
    return model


def gradients(model: OmniAVSR) -> dict[str, Tensor]:
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])  # with and without a bos token
@pytest.mark.parametrize("mode", ["average", "stack"])
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("audio", AUDIO_ENCODERS)
def test_padding_changes_neither_loss_nor_generated_ids(
    audio: str, strategy: str, mode: str, family: str, folder: Path
) -> None:
    compression = {"mode": mode, "audio_rates": [2, 5], "video_rates": [1, 3]}
    model = tiny_model(folder, audio=audio, family=family, adapters={"strategy": strategy}, compression=compression)
    batch = tiny_batch()
    singles = [single(batch, row) for row in range(len(batch))]
    with torch.no_grad():
        together = loss_of(model, batch)
        alone = [loss_of(model, one) for one in singles]
        features = model.encode(batch.inputs)
        features_alone = [model.encode(one.inputs) for one in singles]
    assert float(together.loss) == pytest.approx(sum(float(output.loss) for output in alone), abs=1e-5)
    for task in Task:
        summed = sum(float(output.task_losses[task]) for output in alone)
        assert float(together.task_losses[task]) == pytest.approx(summed, abs=1e-5)
        for num_beams in (1, 3):
            expected = [ids_of(model, part, task, num_beams)[0] for part in features_alone]
            assert ids_of(model, features, task, num_beams) == expected, (task, num_beams)


def manual_prefix(model: OmniAVSR, batch: Batch, with_bos: bool) -> Tensor:
    """[1, L, H] of AVSR, laid out by hand."""
    tokens = model.tokens(model.encode(batch.inputs), Task.AVSR, RATES)
    text, embedding, markers = model.text, model.llm.get_input_embeddings(), model.markers.weight
    parts = [
        *([embedding(torch.tensor([text.bos_id]))] if with_bos else []),
        markers[0:1],
        tokens[Modality.AUDIO].values[0],
        markers[1:2],
        markers[2:3],
        tokens[Modality.VIDEO].values[0],
        markers[3:4],
        embedding(torch.tensor(text.encode("do both"))),
    ]
    return torch.cat(parts)[None]


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
@torch.no_grad()
def test_greedy_ids_are_those_of_a_loop_without_cache_or_batch(family: str, folder: Path) -> None:
    model = tiny_model(folder, family=family)
    batch = tiny_batch()
    found = ids_of(model, model.encode(batch.inputs), Task.AVSR)
    embedding = model.llm.get_input_embeddings()
    for row in range(len(batch)):
        embeds, expected = manual_prefix(model, single(batch, row), family == "llama"), []
        while len(expected) < 6 and model.text.eos_id not in expected:
            with model.router.route(Task.AVSR):
                logits = model.llm(inputs_embeds=embeds, use_cache=False).logits
            expected.append(int(logits[0, -1].argmax()))
            embeds = torch.cat([embeds, embedding(torch.tensor([expected[-1:]]))], dim=1)
        assert found[row] == expected
    assert len({tuple(ids) for ids in found}) > 1, "the model ignores its input, so equal ids show nothing"


@torch.no_grad()
def test_the_loss_is_the_one_of_transformers_for_the_same_embeddings(folder: Path) -> None:
    model, batch = tiny_model(folder), single(tiny_batch(), 0)
    prefix = manual_prefix(model, batch, with_bos=True)
    target = torch.tensor([[*model.text.encode(TEXTS[0]), model.text.eos_id]])
    embeds = torch.cat([prefix, model.llm.get_input_embeddings()(target)], dim=1)
    labels = torch.cat([torch.full(prefix.shape[:2], -100), target], dim=1)
    with model.router.route(Task.AVSR):
        expected = model.llm(inputs_embeds=embeds, labels=labels, use_cache=False).loss
    task_loss = loss_of(model, batch).task_losses[Task.AVSR] * batch.num_label_tokens[Task.AVSR] / target.numel()
    torch.testing.assert_close(task_loss, expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_one_backward_over_three_tasks_reaches_all_that_is_trained(strategy: str, folder: Path) -> None:
    batch, found = tiny_batch(), []
    for checkpointing in (False, True):
        model = joint_model(folder, adapters={"strategy": strategy})
        if checkpointing:
            model.router.enable_gradient_checkpointing(model.llm)
        loss_of(model, batch).loss.backward()
        found.append(gradients(model))
        trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
        unused = {
            name for name in trained if name.startswith(("projectors.audio.by_rate.5", "projectors.video.by_rate.1"))
        }
        assert found[-1].keys() == trained - unused
        assert all(gradient.abs().max() > 0 for gradient in found[-1].values())
        num_adapters = len({name.split(".")[-2] for name in trained if ".lora_" in name})
        assert num_adapters == {"shared": 1, "task_specific": 3, "hybrid": 4}[strategy]
        assert all(row.abs().max() > 0 for row in found[-1]["markers.weight"])
    plain, checkpointed = found
    for name in plain:
        torch.testing.assert_close(checkpointed[name], plain[name], rtol=1e-5, atol=1e-7, msg=name)


def test_a_training_step_leaves_frozen_parts_alone(folder: Path) -> None:
    model, batch = tiny_model(folder).train(), tiny_batch()
    chosen = freeze_all_but(model, ["projectors.*", "markers.*"])
    set_modes(model)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=0.1)
    for rates in (RATES, Rates(5, 1)):
        loss_of(model, batch, rates).loss.backward()
    assert gradients(model).keys() == chosen
    optimizer.step()
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == chosen
    assert sum("running_mean" in name for name in before) > 0
    for frozen in (model.encoders, model.llm):
        assert not any(module.training for module in frozen.modules())


def test_a_trained_encoder_learns_through_the_llm(folder: Path) -> None:
    model = tiny_model(folder)
    chosen = freeze_all_but(model, ["encoders.audio.encoder.*"])
    set_modes(model)
    loss_of(model, tiny_batch()).loss.backward()
    assert gradients(model).keys() == chosen


def calls_of(module: nn.Module) -> list[tuple[Any, ...]]:
    """Positional arguments of every call of ``module`` from now on."""
    calls: list[tuple[Any, ...]] = []
    module.register_forward_pre_hook(lambda _, arguments: calls.append(arguments))
    return calls


def test_a_step_runs_the_llm_once_per_task_and_each_encoder_once(folder: Path) -> None:
    model = joint_model(folder)
    llm, head = calls_of(model.llm.get_decoder()), calls_of(model.llm.get_output_embeddings())
    encoders = [calls_of(encoder) for encoder in model.encoders.values()]
    batch = tiny_batch()
    RecognitionObjective(RecognitionObjectiveConfig(), 0, 6)(model, batch)
    assert len(llm) == 3
    assert [len(calls) for calls in encoders] == [1, 1]
    # Logits are made where a label stands and nowhere else.
    assert [arguments[0].shape[:-1].numel() for arguments in head] == [batch.num_label_tokens[task] for task in Task]


def test_token_counts_are_those_of_the_sequences(folder: Path) -> None:
    model, batch = tiny_model(folder), tiny_batch()
    with torch.no_grad():
        features = model.encode(batch.inputs)
        output = model.loss(features, batch.texts, RATES, {Task.VSR: 1.0}, batch.num_label_tokens)
    # bos, two markers, a token for every three frames, the prompt, the transcript, eos
    lengths = [
        1 + 2 + -(-count // 3) + len("see it") + len(text) + 1 for count, text in zip((9, 4, 7), TEXTS, strict=True)
    ]
    assert output.num_llm_tokens == sum(lengths)
    assert output.num_padded_tokens == 3 * max(lengths)


@pytest.mark.parametrize(
    ("rates", "message"), [(Rates(4, 3), r"audio rate 4 .* \[2, 5\]"), (Rates(2, 2), "video rate 2")]
)
def test_an_untrained_rate_is_an_error(rates: Rates, message: str, folder: Path) -> None:
    model = tiny_model(folder)
    features = model.encode(tiny_batch().inputs)
    with pytest.raises(ValueError, match=message):
        model.generate(features, Task.AVSR, rates)


def test_a_task_does_not_mind_an_untrained_rate_of_what_it_does_not_read(folder: Path) -> None:
    model = tiny_model(folder)
    features = model.encode(tiny_batch().inputs)
    assert len(model.generate(features, Task.VSR, Rates(999, 3), max_new_tokens=1)) == 3


def test_a_missing_modality_is_an_error(folder: Path) -> None:
    model = tiny_model(folder)
    features = model.encode({Modality.VIDEO: tiny_batch().inputs[Modality.VIDEO]})
    with pytest.raises(ValueError, match="avsr needs audio, which these clips do not have"):
        model.generate(features, Task.AVSR, RATES)


def test_a_model_without_video_hears_clips_that_have_it(folder: Path) -> None:
    model, batch = tiny_model(folder, video_encoder=None), tiny_batch()
    assert set(model.encode(batch.inputs)) == {Modality.AUDIO}
    assert len(model.generate(model.encode(batch.inputs), Task.ASR, RATES, max_new_tokens=2)) == 3
    with pytest.raises(ValueError, match="vsr needs video"):
        model.generate(model.encode(batch.inputs), Task.VSR, RATES)


def test_generation_is_deterministic_and_cuts_no_word_off(folder: Path) -> None:
    model = tiny_model(folder)
    features = model.encode(tiny_batch().inputs)
    first = model.generate(features, Task.AVSR, RATES)
    torch.manual_seed(123)
    assert model.generate(features, Task.AVSR, RATES) == first


def test_the_seed_alone_decides_the_new_parts(folder: Path) -> None:
    torch.manual_seed(1)
    first = tiny_model(folder).state_dict()
    torch.manual_seed(2)
    second = tiny_model(folder).state_dict()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


def test_one_batch_can_be_learned_by_heart(folder: Path) -> None:
    model, batch = joint_model(folder, adapters={"rank": 8, "alpha": 16.0}), tiny_batch()
    # Without it the random LLM, whose embeddings are short, cannot be sure of any token.
    model.llm.get_decoder().norm.weight.data.fill_(3.0)
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=2e-2)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = loss_of(model, batch).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.1 * losses[0], (losses[0], losses[-1])
    features = model.encode(batch.inputs)
    assert [model.generate(features, task, RATES) for task in Task] == [list(TEXTS)] * 3
