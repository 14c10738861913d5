"""Stages: the exact trainable set of globs, and which modules are in training mode around it."""

import copy
from collections.abc import Mapping

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor, nn

from omni_avsr.config import from_mapping
from omni_avsr.data.augment import AugmentConfig
from omni_avsr.stages import (
    CTCObjectiveConfig,
    RecognitionObjectiveConfig,
    StageConfig,
    freeze_all_but,
    matching_names,
    set_modes,
)
from omni_avsr.types import Modality, Task


class Part(nn.Module):
    """A convolution with batch norm and dropout, such as encoders have."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(2, 2, 1)
        self.norm = nn.BatchNorm1d(2)
        self.dropout = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.norm(self.conv(x)))


class Toy(nn.Module):
    """Two encoders, a projector and an LLM whose q_proj may carry LoRA."""

    def __init__(self) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict({"audio": Part(), "video": Part()})
        self.projectors = nn.ModuleDict({"audio": nn.Linear(2, 3)})
        self.llm = nn.ModuleDict({"q_proj": nn.Linear(3, 3), "dropout": nn.Dropout(0.5), "norm": nn.LayerNorm(3)})


@pytest.fixture
def model() -> Toy:
    torch.manual_seed(0)
    return Toy()


def with_lora(model: Toy) -> Toy:
    inject_adapter_in_model(LoraConfig(r=2, lora_dropout=0.5, target_modules=["q_proj"]), model.llm, "shared")
    return model


def trainable(model: nn.Module) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def modes(model: nn.Module) -> Mapping[str, bool]:
    return {name: module.training for name, module in model.named_modules()}


PART_NAMES = ("conv.weight", "conv.bias", "norm.weight", "norm.bias")


def test_one_glob_trains_exactly_its_names(model: Toy) -> None:
    expected = {f"encoders.video.{name}" for name in PART_NAMES}
    assert freeze_all_but(model, ["encoders.video.*"]) == expected
    assert trainable(model) == expected


def test_several_globs_add_up_and_may_overlap(model: Toy) -> None:
    freeze_all_but(with_lora(model), ["projectors.*", "*.weight", "llm.*lora_*"])
    weights = {name for name, _ in model.named_parameters() if name.endswith(".weight")}
    assert trainable(model) == weights | {"projectors.audio.bias"}


def test_lora_alone_leaves_its_base_frozen(model: Toy) -> None:
    freeze_all_but(with_lora(model), ["llm.*lora_*"])
    assert trainable(model) == {"llm.q_proj.lora_A.shared.weight", "llm.q_proj.lora_B.shared.weight"}


def test_a_later_stage_freezes_what_an_earlier_one_trained(model: Toy) -> None:
    freeze_all_but(model, ["encoders.*"])
    freeze_all_but(model, ["projectors.*"])
    assert trainable(model) == {"projectors.audio.weight", "projectors.audio.bias"}


def test_a_glob_that_matches_nothing_is_an_error_and_changes_nothing(model: Toy) -> None:
    before = trainable(model)
    with pytest.raises(
        ValueError, match=r"'encoder\.\*' matches no parameter to train; there are encoders\.audio, encoders"
    ):
        freeze_all_but(model, ["projectors.*", "encoder.*"])
    assert trainable(model) == before


def test_globs_tell_upper_from_lower_case() -> None:
    with pytest.raises(ValueError):
        matching_names(["llm.lora_A"], ["llm.lora_a"], "parameter")


def test_frozen_parts_are_in_evaluation_mode_and_trained_ones_in_training_mode(model: Toy) -> None:
    freeze_all_but(model, ["encoders.video.*"])
    model.train()
    set_modes(model)
    trained = {name for name, training in modes(model).items() if training}
    assert trained == {f"encoders.video{end}" for end in ("", ".conv", ".norm", ".dropout")}


def test_batch_norm_of_a_frozen_part_keeps_its_statistics_and_its_dropout_sleeps(model: Toy) -> None:
    freeze_all_but(model, ["encoders.video.*"])
    set_modes(model)
    before = copy.deepcopy(model.state_dict())
    inputs = torch.randn(4, 2, 5) + 3
    outputs = model.encoders["audio"](inputs)
    assert torch.equal(outputs, model.encoders["audio"](inputs))
    model.encoders["video"](inputs)
    after = model.state_dict()
    changed = {name for name in after if not torch.equal(after[name], before[name])}
    assert changed == {f"encoders.video.norm.{name}" for name in ("running_mean", "running_var", "num_batches_tracked")}


def test_a_half_frozen_batch_norm_is_frozen(model: Toy) -> None:
    freeze_all_but(model, ["encoders.video.conv.*", "encoders.video.norm.bias"])
    set_modes(model)
    assert not model.encoders["video"].norm.training
    assert model.encoders["video"].dropout.training


def test_lora_in_a_frozen_linear_trains_its_dropout_alone(model: Toy) -> None:
    freeze_all_but(with_lora(model), ["llm.*lora_*"])
    model.train()
    set_modes(model)
    now = modes(model)
    assert not now["llm.q_proj.base_layer"]
    assert not now["llm.dropout"]
    assert not now["llm.norm"]
    assert now["llm.q_proj.lora_dropout.shared"]
    assert now["llm.q_proj.lora_A.shared"]
    layer, inputs = model.llm["q_proj"], torch.randn(2, 3)
    nn.init.ones_(layer.lora_B["shared"].weight)
    torch.manual_seed(0)
    outputs = [layer(inputs) for _ in range(4)]
    assert any(not torch.equal(output, outputs[0]) for output in outputs)


def test_modes_do_not_depend_on_the_modes_before(model: Toy) -> None:
    freeze_all_but(with_lora(model), ["encoders.audio.*", "llm.*lora_*"])
    set_modes(model.train())
    once = modes(model)
    set_modes(model.eval())
    assert modes(model) == once


def test_a_model_without_anything_to_train_is_in_evaluation_mode(model: Toy) -> None:
    model.requires_grad_(False)
    set_modes(model.train())
    assert not any(modes(model).values())


def test_the_objective_is_chosen_by_its_kind() -> None:
    stage = from_mapping(
        StageConfig,
        {
            "objective": {"kind": "ctc", "modality": "video", "frame_targets": {"words": 1.0}},
            "trainable": ["encoders.video.*"],
            "num_steps": 5,
            "augment": None,
        },
    )
    assert stage.objective == CTCObjectiveConfig(modality=Modality.VIDEO, frame_targets={"words": 1.0})
    assert stage.trainable == ("encoders.video.*",)
    assert stage.augment is None


def test_a_recognition_stage_has_the_published_task_weights_and_augmentation() -> None:
    values = {"objective": {"kind": "recognition"}, "trainable": ["*"], "num_steps": 5}
    stage = from_mapping(StageConfig, values)
    assert isinstance(stage.objective, RecognitionObjectiveConfig)
    assert stage.objective.task_weights == {Task.ASR: 1.0, Task.VSR: 1.5, Task.AVSR: 1.0}
    assert stage.augment == AugmentConfig()


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"objective": {"kind": "ctc"}}, "stage.objective.modality"),
        ({"optimizer": {"lr": 0}}, "stage.optimizer.lr"),
        ({"num_steps": 0}, "stage.num_steps"),
        ({"trainable": "encoders.*"}, "stage.trainable"),
        ({"epochs": 3}, "stage.epochs"),
    ],
)
def test_a_wrong_field_of_a_stage_is_named(change: dict[str, object], field: str) -> None:
    values = {"objective": {"kind": "recognition"}, "trainable": ["*"], "num_steps": 5} | change
    with pytest.raises(ValueError, match=rf"^{field}: "):
        from_mapping(StageConfig, values, "stage")


def test_an_error_names_a_handful_of_what_there_is() -> None:
    with pytest.raises(ValueError) as error:
        matching_names([f"s1/{number:04}" for number in range(2000)], ["s2/*"], "training clip")
    assert "there are s1/0000, s1/0001" in str(error.value)
    assert len(str(error.value)) < 300
