"""Training with a bfloat16 LLM, float32 adapters and autocast, as on a GPU: it learns, and stays near float32."""

from pathlib import Path

import pytest
import torch
from helpers_model import single, tiny_batch, tiny_model

from omni_avsr.config import PUBLISHED_TASK_WEIGHTS
from omni_avsr.model import OmniAVSR
from omni_avsr.stages import freeze_all_but, set_modes
from omni_avsr.types import Batch, Rates, StepOutput, Task

RATES = Rates(2, 3)
JOINT = ("projectors.*", "markers.*", "llm.*lora_*")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


def joint_model(folder: Path, dtype: str, strategy: str = "hybrid") -> OmniAVSR:
    """Ready for the joint stage; the same weights in every dtype, up to its rounding."""
    model = tiny_model(folder, llm={"dtype": dtype}, adapters={"strategy": strategy})
    freeze_all_but(model, JOINT)
    set_modes(model)
    return model


def loss_of(model: OmniAVSR, batch: Batch, mixed: bool = True) -> StepOutput:
    with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
        features = model.encode(batch.inputs)
        return model.loss(features, batch.texts, RATES, PUBLISHED_TASK_WEIGHTS, batch.num_label_tokens)


def test_the_llm_is_in_bfloat16_and_all_that_is_trained_in_float32(folder: Path) -> None:
    model = joint_model(folder, "bfloat16")
    parameters = dict(model.named_parameters())
    frozen_llm = {value.dtype for name, value in parameters.items() if name.startswith("llm.") and "lora_" not in name}
    assert frozen_llm == {torch.bfloat16}
    assert {value.dtype for value in parameters.values() if value.requires_grad} == {torch.float32}


@pytest.mark.parametrize("checkpointing", [False, True], ids=["plain", "checkpointing"])
@pytest.mark.parametrize("strategy", ["shared", "task_specific", "hybrid"])
def test_a_training_step_reaches_every_adapter(strategy: str, checkpointing: bool, folder: Path) -> None:
    model, batch = joint_model(folder, "bfloat16", strategy), tiny_batch()
    if checkpointing:
        model.router.enable_gradient_checkpointing(model.llm)
    adapters = {name: value for name, value in model.named_parameters() if ".lora_" in name}
    assert adapters
    before = {name: value.detach().clone() for name, value in adapters.items()}
    optimizer = torch.optim.AdamW([value for value in model.parameters() if value.requires_grad], 1e-3)
    output = loss_of(model, batch)
    output.loss.backward()
    assert output.loss.dtype is torch.float32
    assert all(bool(loss.isfinite()) for loss in (output.loss, *output.task_losses.values()))
    for name, value in adapters.items():
        assert value.grad is not None, name
        assert value.grad.dtype is torch.float32
        assert bool(value.grad.isfinite().all()), name
        assert bool(value.grad.abs().max() > 0), name
    optimizer.step()
    assert not any(torch.equal(value, before[name]) for name, value in adapters.items())
    after = loss_of(model, batch)
    assert bool(after.loss.isfinite())
    assert after.loss.item() < output.loss.item()


def test_the_losses_are_near_those_in_float32(folder: Path) -> None:
    batch = tiny_batch()
    with torch.no_grad():
        mixed = loss_of(joint_model(folder, "bfloat16"), batch)
        exact = loss_of(joint_model(folder, "float32"), batch, mixed=False)
    assert float(mixed.loss) == pytest.approx(float(exact.loss), rel=0.05)
    assert float(mixed.loss) != float(exact.loss), "nothing was computed in bfloat16"
    for task in Task:
        assert float(mixed.task_losses[task]) == pytest.approx(float(exact.task_losses[task]), rel=0.05)


def test_padding_changes_the_losses_by_no_more_than_rounding(folder: Path) -> None:
    model, batch = joint_model(folder, "bfloat16"), tiny_batch()
    with torch.no_grad():
        together = loss_of(model, batch)
        alone = [loss_of(model, single(batch, row)) for row in range(len(batch))]
    assert float(together.loss) == pytest.approx(sum(float(part.loss) for part in alone), rel=2e-2)
    for task in Task:
        summed = sum(float(part.task_losses[task]) for part in alone)
        assert float(together.task_losses[task]) == pytest.approx(summed, rel=2e-2)
