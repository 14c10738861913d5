"""One stage under Lightning: schedule, accumulation, what is frozen, modes, resume points."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from helpers_model import stage_values, tiny_batch, tiny_model
from torch import Tensor, nn
from torch.utils.data import DataLoader

from omni_avsr.callbacks import ResumeSaver
from omni_avsr.config import from_mapping
from omni_avsr.data.batching import BatchPlan, PlanSampler
from omni_avsr.objectives.base import Objective
from omni_avsr.objectives.ctc import CTCObjective
from omni_avsr.objectives.frame_targets import WordFrameTargets
from omni_avsr.objectives.recognition import RecognitionObjective
from omni_avsr.resume import ResumePoint
from omni_avsr.stage_data import plan_loader
from omni_avsr.stages import OptimizerConfig, RecognitionObjectiveConfig, StageConfig, freeze_all_but
from omni_avsr.training import StageModule, schedule
from omni_avsr.types import Batch, Modality, Task

CLIPS = tiny_batch(frames=(6, 5, 9, 4, 7, 8, 5, 6), texts=("bin", "set it", "a", "lay", "one", "at", "red now", "b"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


class Clips(torch.utils.data.Dataset[Batch]):
    """The rows of ``CLIPS`` that a plan names, with the totals of its global batch."""

    def __getitem__(self, plan: BatchPlan) -> Batch:
        rows = list(plan.indices)
        inputs = {
            modality: replace(part, values=part.values[rows], lengths=part.lengths[rows])
            for modality, part in CLIPS.inputs.items()
        }
        return Batch(tuple(CLIPS.clips[row] for row in rows), inputs, plan.num_label_tokens, plan.num_clips, plan.step)


def plans_of(groups: Sequence[Sequence[tuple[int, ...]]]) -> list[BatchPlan]:
    """Plans from the micro-batches of every step."""
    made = []
    for step, group in enumerate(groups):
        rows = [row for indices in group for row in indices]
        totals = dict.fromkeys(Task, sum(len(CLIPS.texts[row]) + 1 for row in rows))
        made += [BatchPlan(indices, step, totals, len(rows)) for indices in group]
    return made


def fit(
    model: nn.Module,
    objective: Objective,
    stage: StageConfig,
    groups: Sequence[Sequence[tuple[int, ...]]],
    callbacks: Sequence[L.Callback] = (),
    validate_every: int | None = None,
) -> StageModule:
    freeze_all_but(model, stage.trainable)
    module = StageModule(model, objective, "test", stage, seed=3)
    trainer = L.Trainer(
        accelerator="cpu",
        max_steps=stage.num_steps,
        max_epochs=-1,
        accumulate_grad_batches=stage.batching.accumulation,
        gradient_clip_val=stage.optimizer.clip_norm,
        val_check_interval=validate_every,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        logger=False,
        callbacks=list(callbacks),
    )
    loaders = [plan_loader(Clips(), plans_of(groups), 0)]
    if validate_every:
        loaders.append(plan_loader(Clips(), plans_of([[(0, 1)], [(2, 3)]]), 0))
    trainer.fit(module, *loaders)
    assert trainer.global_step == stage.num_steps
    return module


def stage_of(kind: str, num_steps: int, accumulation: int = 1, **changes: Any) -> StageConfig:
    return from_mapping(StageConfig, stage_values(kind, num_steps, accumulation, **changes))


def recognition() -> RecognitionObjective:
    return RecognitionObjective(RecognitionObjectiveConfig(), 3, 4)


def copy_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def test_the_schedule_warms_up_linearly_and_falls_as_a_cosine_to_zero() -> None:
    factor = schedule(OptimizerConfig(warmup_steps=4), num_steps=12)
    assert [factor(step) for step in range(4)] == [0.25, 0.5, 0.75, 1.0]
    assert factor(4) == 1.0
    assert factor(8) == pytest.approx(0.5)
    assert factor(6) == pytest.approx(0.5 + 0.5 * math.cos(math.pi / 4))
    assert factor(12) == pytest.approx(0.0)
    assert factor(13) == factor(12)


def test_the_schedule_without_warm_up_starts_at_its_peak() -> None:
    factor = schedule(OptimizerConfig(), num_steps=3)
    assert [factor(step) for step in range(4)] == pytest.approx([1.0, 0.75, 0.25, 0.0])


def test_a_schedule_whose_time_runs_out_first_is_at_its_end_by_then() -> None:
    spent = 0.0
    config = OptimizerConfig(warmup_steps=2)
    factor, by_steps = schedule(config, 12, lambda: spent), schedule(config, 12)
    assert [factor(step) for step in range(12)] == [by_steps(step) for step in range(12)]
    spent = 0.5
    assert factor(3) == pytest.approx(0.5)
    assert by_steps(3) > 0.9
    assert factor(11) == by_steps(11)  # steps are further than the time
    spent = 1.2
    assert factor(3) == pytest.approx(0)


def test_a_constant_schedule_stays_at_its_peak_and_knows_no_end() -> None:
    config = OptimizerConfig(warmup_steps=2, schedule="constant")
    short, long = schedule(config, num_steps=4), schedule(config, num_steps=9)
    assert [short(step) for step in range(4)] == [long(step) for step in range(4)] == [0.5, 1.0, 1.0, 1.0]
    assert long(8) == 1.0


def test_the_optimizer_follows_the_schedule_and_decays_matrices_alone(folder: Path) -> None:
    rates: list[float] = []

    class Recorder(L.Callback):
        def on_before_optimizer_step(self, trainer: L.Trainer, *_: Any) -> None:
            rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    stage = stage_of("projector", 4, optimizer={"lr": 0.01, "warmup_steps": 2, "weight_decay": 0.3})
    module = fit(tiny_model(folder), recognition(), stage, [[(0, 1)]] * 4, [Recorder()])
    assert rates == pytest.approx([0.005, 0.01, 0.01, 0.005])
    groups = module.trainer.optimizers[0].param_groups
    assert [group["weight_decay"] for group in groups] == [0.3, 0.0]
    assert {value.ndim for value in groups[0]["params"]} == {2}
    assert {value.ndim for value in groups[1]["params"]} == {1}


def test_accumulation_gives_the_weights_of_the_same_clips_in_one_batch(folder: Path) -> None:
    states = []
    for accumulation, groups in (
        (1, [[(0, 1, 2, 3)], [(4, 5, 6, 7)]]),
        (2, [[(0, 1), (2, 3)], [(4, 5), (6, 7)]]),
    ):
        model = tiny_model(folder)
        before = copy_of(model)
        # Gradients are clipped, so that a wrong scale shows in spite of Adam.
        stage = stage_of("joint", 2, accumulation, optimizer={"lr": 0.01, "clip_norm": 0.05})
        fit(model, recognition(), stage, groups)
        states.append(copy_of(model))
        assert any(not torch.equal(value, before[name]) for name, value in states[-1].items())
    for name, value in states[0].items():
        torch.testing.assert_close(states[1][name], value, rtol=1e-5, atol=1e-5, msg=name)


def test_the_gradient_is_the_one_of_the_global_mean_whatever_the_accumulation(folder: Path) -> None:
    """Before Adam, which forgets the scale."""
    norms = []

    class Recorder(L.Callback):
        def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
            norms.append(torch.stack([p.grad.norm() for p in pl_module.parameters() if p.grad is not None]).norm())

    for accumulation, groups in ((1, [[(0, 1, 2, 3)]]), (2, [[(0, 1), (2, 3)]]), (4, [[(0,), (1,), (2,), (3,)]])):
        fit(tiny_model(folder), recognition(), stage_of("joint", 1, accumulation), groups, [Recorder()])
    torch.testing.assert_close(torch.stack(norms), norms[0].expand(3), rtol=1e-4, atol=0)


def test_frozen_tensors_are_the_same_bit_for_bit_after_training_and_validation(folder: Path) -> None:
    model = tiny_model(folder)
    before = copy_of(model)
    stage = stage_of("joint", 3)
    fit(model, recognition(), stage, [[(0, 1)], [(2, 3)], [(4, 5)]], validate_every=2)
    changed = {name for name, value in copy_of(model).items() if not torch.equal(value, before[name])}
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert changed <= trained
    assert {name.split(".")[0] for name in changed} == {"projectors", "markers", "llm"}


def test_batch_norm_moves_where_it_is_trained(folder: Path) -> None:
    model = tiny_model(folder)
    before = copy_of(model)
    fit(model, video_ctc(), stage_of("video_ctc", 1), [[(0, 1)]])
    moved = {
        name
        for name, value in copy_of(model).items()
        if "running_mean" in name and not torch.equal(value, before[name])
    }
    assert len(moved) == sum("running_mean" in name for name in before) > 0


def video_ctc() -> CTCObjective:
    return CTCObjective(Modality.VIDEO, {"words": WordFrameTargets(16, ["bin"])}, {"words": 1.0})


class Modes(L.Callback):
    """Which modules are in training mode at every training batch, and whether the objective is at a validation one."""

    def __init__(self) -> None:
        self.seen: list[list[str]] = []
        self.validations = 0
        self.validating: list[bool] = []

    def on_validation_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        assert isinstance(pl_module, StageModule)
        self.validating.append(pl_module.objective.training)

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        self.seen.append([name for name, module in pl_module.named_modules() if module.training])

    def on_validation_end(self, *_: Any) -> None:
        self.validations += 1


@pytest.mark.parametrize("kind", ["video_ctc", "joint"])
def test_modes_are_the_same_after_validation(kind: str, folder: Path) -> None:
    objective = recognition() if kind == "joint" else video_ctc()
    modes, model = Modes(), tiny_model(folder, adapters={"dropout": 0.1})
    fit(model, objective, stage_of(kind, 4), [[(0, 1)]] * 4, [modes], validate_every=1)
    assert modes.validations >= 3
    assert modes.seen[0]
    assert modes.seen == [modes.seen[0]] * 4
    training = "\n".join(modes.seen[0])
    # What only training does (conflicting video) goes by the objective's own mode, parameters or not.
    assert "objective" in modes.seen[0]
    assert modes.validating
    assert not any(modes.validating)
    if kind == "joint":
        assert "model.encoders" not in training
        assert "lora_dropout.vsr" in training
    else:
        assert "model.encoders.video.encoder.resnet.0.norm1" in training
        assert "model.encoders.video.encoder.dropout" in training
        assert "model.llm" not in training


def test_dropout_depends_on_the_seed_and_the_place_of_a_batch_not_on_what_was_drawn_before(folder: Path) -> None:
    states = []
    for state in (1, 2):
        torch.manual_seed(state)
        objective = CTCObjective(Modality.AUDIO)
        model = tiny_model(folder)
        fit(model, objective, stage_of("audio_ctc", 2, 2), [[(0, 1), (2, 3)]] * 2)
        states.append(copy_of(model))
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_a_resume_point_is_never_taken_between_two_accumulated_batches(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There the batch norms of a trained encoder have moved on already, and would again after the resume."""
    saves: list[int] = []
    save = ResumePoint.save
    monkeypatch.setattr(ResumePoint, "save", lambda self, path: saves.append(self.step) or save(self, path))
    saver = ResumeSaver(tmp_path / "resume.pt", seconds=3600, steps=1_000_000)

    class Wait(L.Callback):
        """Time is up just after the first batch of the third step."""

        def on_train_batch_start(self, trainer: L.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
            if batch_idx == 4:
                saver.saved_at -= 7200

    fit(tiny_model(folder), video_ctc(), stage_of("video_ctc", 5, 2), [[(0, 1), (2, 3)]] * 5, [saver, Wait()])
    assert saves == [3, 5]


def test_a_resume_point_of_other_tensors_is_refused(folder: Path) -> None:
    model = tiny_model(folder)
    freeze_all_but(model, ["projectors.*"])
    point = ResumePoint(1, {"model.markers.weight": model.markers.weight.detach()}, {}, {})
    with pytest.raises(ValueError, match=r"missing, such as model\.projectors"):
        StageModule(model, recognition(), "test", stage_of("projector", 1), 3, point)


def test_a_rank_that_would_train_on_another_ranks_batches_is_refused(folder: Path) -> None:
    class Wrong(PlanSampler):
        def __init__(self) -> None:
            self.rank, self.world_size = 1, 2

        def __iter__(self) -> Iterator[BatchPlan]:
            return iter(plans_of([[(0, 1)]]))

    model, stage = tiny_model(folder), stage_of("projector", 1)
    freeze_all_but(model, stage.trainable)
    trainer = L.Trainer(accelerator="cpu", max_steps=1, logger=False, enable_checkpointing=False,
                        enable_progress_bar=False, enable_model_summary=False)  # fmt: skip
    loader: DataLoader[Batch] = plan_loader(Clips(), Wrong(), 0)
    with pytest.raises(ValueError, match="process 0 would train on the batches of process 1"):
        trainer.fit(StageModule(model, recognition(), "test", stage, 3), loader)
