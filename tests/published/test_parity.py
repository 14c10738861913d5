"""Imported checkpoints compute what the authors' code computes: features, sequences, losses, gradients, transcripts."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers_golden import Golden, read_golden, save_references
from torch import Tensor

from omni_avsr.config import PUBLISHED_PROMPTS
from omni_avsr.model import OmniAVSR
from omni_avsr.published.facts import ImportConfig
from omni_avsr.published.importer import import_state
from omni_avsr.published.names import TASK_NAMES, own_names
from omni_avsr.sequence import assemble, embed
from omni_avsr.stages import freeze_all_but
from omni_avsr.types import Features, Modality, Rates, Task

CLOSE_CALL = 0.01
"""A gap between the two best tokens that another order of summing could turn over."""
RATES = {"a4v2": Rates(4, 2), "a16v5": Rates(16, 5)}


@pytest.fixture(scope="module", params=["S", "S_single"])
def golden(request: pytest.FixtureRequest, shared: Path) -> Golden:
    return read_golden(shared / "golden", request.param)


@pytest.fixture(scope="module")
def model(golden: Golden, tmp_path_factory: pytest.TempPathFactory) -> OmniAVSR:
    return imported(golden, golden.state, tmp_path_factory.mktemp("published"))


def imported(golden: Golden, state: dict[str, Tensor], folder: Path) -> OmniAVSR:
    llm, whisper = save_references(golden.facts, folder)
    lora = golden.facts["config"]["lora"]
    config = ImportConfig(
        folder / "golden.safetensors",
        folder / "output",
        str(llm),
        str(whisper),
        extract=folder / "bases",
        lora_alpha=lora["alpha"],
        lora_divisor=lora["rank"],
        video_num_heads=golden.facts["config"]["avhubert"]["encoder_attention_heads"],
        padding="attended",
    )
    model, differing = import_state(state, config)
    assert not differing
    return model


def inputs(golden: Golden, case: str) -> dict[Modality, Features]:
    audio, video = golden.tensors[f"in.{case}.audio"][..., 0], golden.tensors[f"in.{case}.video"][:, :, 0]
    facts = golden.facts["cases"][case]
    return {
        Modality.AUDIO: Features(audio, torch.tensor(facts["lengths"])),
        Modality.VIDEO: Features(video, torch.tensor(facts["frames"])),
    }


def runs(golden: Golden) -> list[tuple[str, str]]:
    return [(case, rates) for case, facts in golden.facts["cases"].items() for rates in facts["runs"]]


def test_settings_say_what_the_weights_depend_on(golden: Golden, model: OmniAVSR) -> None:
    config = model.config
    single = golden.facts["flags"]["is_single_matry_projector"]
    assert config.projector.sharing == ("shared" if single else "per_rate")
    assert config.projector.layer_norm is single
    assert config.compression.tail == "drop"
    assert config.prompts == PUBLISHED_PROMPTS
    assert config.markers.pad_row
    assert config.markers.vocab_size == golden.facts["config"]["llama"]["vocab_size"]
    assert config.adapters.alpha / config.adapters.rank == golden.facts["config"]["lora"]["llm_scaling"]


@torch.no_grad()
def test_video_features(golden: Golden, model: OmniAVSR) -> None:
    features = model.encode(inputs(golden, "b1"))[Modality.VIDEO].values
    torch.testing.assert_close(features, golden.tensors["out.b1.encoder_video"], rtol=0, atol=1e-5)


@torch.no_grad()
def test_sequences_and_logits(golden: Golden, model: OmniAVSR) -> None:
    features, texts = model.encode(inputs(golden, "b1")), golden.facts["cases"]["b1"]["text"]
    transcripts = [model.text.encode(text) for text in texts]
    compared = 0
    for rates_name, rates in RATES.items():
        for name, task in TASK_NAMES.items():
            expected = f"out.b1.{rates_name}.{name}"
            if f"{expected}.inputs_embeds" not in golden.tensors:
                continue
            tokens = model.tokens(features, task, rates)
            sequence = assemble(task, tokens, model.text_ids, transcripts)
            embeds = embed(sequence, tokens, model.llm.get_input_embeddings(), model.markers)
            torch.testing.assert_close(embeds, golden.tensors[f"{expected}.inputs_embeds"], rtol=0, atol=1e-5)
            with model.router.route(task):
                logits = model.llm(inputs_embeds=embeds, attention_mask=sequence.attention_mask).logits
            torch.testing.assert_close(logits, golden.tensors[f"{expected}.logits"], rtol=0, atol=2e-4)
            compared += 1
    assert compared


def losses(model: OmniAVSR, golden: Golden, case: str, rates: Rates) -> dict[Task, float]:
    texts = golden.facts["cases"][case]["text"]
    num_tokens = sum(len(model.text.encode(text)) + 1 for text in texts)
    features = model.encode(inputs(golden, case))
    output = model.loss(features, texts, rates, dict.fromkeys(Task, 1.0), dict.fromkeys(Task, num_tokens))
    return {task: float(loss) for task, loss in output.task_losses.items()}


@torch.no_grad()
def test_losses_of_the_three_tasks(golden: Golden, model: OmniAVSR) -> None:
    for case, rates_name in runs(golden):
        expected = golden.facts["cases"][case]["runs"][rates_name]["losses"]
        found = losses(model, golden, case, RATES[rates_name])
        for name, task in TASK_NAMES.items():
            assert found[task] == pytest.approx(expected[name], abs=1e-4), (case, rates_name, name)


@pytest.mark.parametrize("rates_name", RATES)
def test_gradient_norms(golden: Golden, model: OmniAVSR, rates_name: str) -> None:
    norms = golden.facts["cases"]["b1"]["runs"][rates_name]["grad_norm"]
    rates = {Modality.AUDIO: (4, 16), Modality.VIDEO: (2, 5)}
    expected = own_names({name: torch.tensor(norm) for name, norm in norms.items()}, rates)
    freeze_all_but(model, ["projectors.*", "*.lora_*"])
    model.zero_grad()
    texts = golden.facts["cases"]["b1"]["text"]
    num_tokens = sum(len(model.text.encode(text)) + 1 for text in texts)
    features = model.encode(inputs(golden, "b1"))
    share, totals = dict.fromkeys(Task, 1 / len(Task)), dict.fromkeys(Task, num_tokens)
    model.loss(features, texts, RATES[rates_name], share, totals).loss.backward()
    found = {name: p.grad.norm() for name, p in model.named_parameters() if p.grad is not None}
    model.requires_grad_(False)
    assert found.keys() == expected.keys()
    for name, norm in expected.items():
        torch.testing.assert_close(found[name], norm, rtol=1e-3, atol=1e-5, msg=name)


def clips(golden: Golden) -> dict[str, dict[Modality, Features]]:
    """The inputs of each clip alone, by its name."""
    found = {}
    for case, facts in golden.facts["cases"].items():
        for row, clip in enumerate(facts["clips"]):
            whole = inputs(golden, case)
            found[clip] = {
                modality: Features(part.values[row : row + 1, : int(part.lengths[row])], part.lengths[row : row + 1])
                for modality, part in whole.items()
            }
    return found


@pytest.mark.parametrize("search", ["greedy", "beam3"])
def test_transcripts(golden: Golden, model: OmniAVSR, search: str) -> None:
    compared = 0
    for clip, own in clips(golden).items():
        features = model.encode(own)
        for setting, expected in golden.facts["generate"]["clips"][clip].items():
            if expected["greedy"]["min_gap"] < CLOSE_CALL:
                continue
            ids = generated(model, features, setting, num_beams=3 if search == "beam3" else 1)
            assert ids == expected[search]["ids"], (clip, setting)
            compared += 1
    assert compared > len(clips(golden))


def generated(model: OmniAVSR, features: dict[Modality, Features], setting: str, num_beams: int) -> list[int]:
    name, *numbers = setting.split(".")
    by_modality = {"a": 4, "v": 2} | {number[0]: int(number[1:]) for number in numbers}
    rates = Rates(by_modality["a"], by_modality["v"])
    ids = model.generate_ids(features, TASK_NAMES[name], rates, num_beams, 16)
    return [int(number) for number in ids[0]]


def test_batches_are_as_each_clip_alone_unless_told_otherwise(golden: Golden, model: OmniAVSR) -> None:
    attended = losses(model, golden, "b2", RATES["a4v2"])
    model.config, before = replace(model.config, padding="masked"), model.config
    try:
        assert losses(model, golden, "b2", RATES["a4v2"]) != pytest.approx(attended, abs=1e-2)
    finally:
        model.config = before


def with_task_sets(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """T: every task has the only set of ``state`` as its own."""
    changed = {}
    for name, value in state.items():
        if name.startswith("llm.") and ".lora_" in name:
            changed |= {name.replace(".weight", f".{task}.weight"): value for task in TASK_NAMES}
        else:
            changed[name] = value
    return changed


def with_split_sets(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """ST: the only set of ``state`` is the sum of a shared set and of another one for each task."""
    changed = with_task_sets(state)
    for name, value in state.items():
        if not name.startswith("llm.") or ".lora_" not in name:
            continue
        shared = value
        if ".lora_up_" in name:
            shared = torch.randn(value.shape, generator=torch.Generator().manual_seed(len(name)))
            changed |= {name.replace(".weight", f".{task}.weight"): value - shared for task in TASK_NAMES}
        changed[name.replace(".weight", "_shared.weight")] = shared
    return changed


def with_stacks(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Stacking: projectors that see the frames of a window side by side, and take their mean."""
    changed = dict(state)
    for modality, rates in (("audio", (4, 16)), ("video", (2, 5))):
        for index, rate in enumerate(rates):
            name = f"{modality}_proj.{index}.0.weight"
            changed[name] = state[name].repeat(1, rate) / rate
    return changed


@torch.no_grad()
@pytest.mark.parametrize(
    ("change", "strategy", "mode"),
    [
        (with_task_sets, "task_specific", "average"),
        (with_split_sets, "hybrid", "average"),
        (with_stacks, "shared", "stack"),
    ],
)
def test_other_variants_of_the_same_model_compute_the_same(
    shared: Path, tmp_path: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]], strategy: str, mode: str
) -> None:
    golden = read_golden(shared / "golden", "S")
    model = imported(golden, change(golden.state), tmp_path)
    assert (model.config.adapters.strategy, model.config.compression.mode) == (strategy, mode)
    for case, rates_name in runs(golden):
        expected = golden.facts["cases"][case]["runs"][rates_name]["losses"]
        found = losses(model, golden, case, RATES[rates_name])
        for name, task in TASK_NAMES.items():
            assert found[task] == pytest.approx(expected[name], abs=1e-4), (case, rates_name, name)
