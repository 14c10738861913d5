"""Resume points: what is in them, that they come back exactly, and that a bad one is refused whole."""

import copy
import os
import signal
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from omni_avsr.resume import ResumePoint, load_state, trained_state
from omni_avsr.stages import freeze_all_but, set_modes


class Part(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 4)
        self.norm = nn.BatchNorm1d(4)
        self.register_buffer("frequencies", torch.arange(4.0), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.linear(x))


def make_model(seed: int = 0) -> nn.ModuleDict:
    torch.manual_seed(seed)
    return nn.ModuleDict({"frozen": Part(), "trained": Part()})


@pytest.fixture
def model() -> nn.ModuleDict:
    made = make_model()
    freeze_all_but(made, ["trained.*"])
    set_modes(made)
    return made


def train(model: nn.ModuleDict, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        inputs = torch.randn(8, 3, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        model["trained"](inputs).square().mean().backward()
        optimizer.step()


def optimizer_of(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW([value for value in model.parameters() if value.requires_grad], 0.1, (0.9, 0.98))


def test_state_is_the_trained_parameters_and_the_statistics_of_trained_parts(model: nn.ModuleDict) -> None:
    expected = {"linear.weight", "linear.bias", "norm.weight", "norm.bias"}
    expected |= {"norm.running_mean", "norm.running_var", "norm.num_batches_tracked"}
    assert set(trained_state(model)) == {f"trained.{name}" for name in expected}


def test_state_of_a_part_has_its_own_names(model: nn.ModuleDict) -> None:
    assert "norm.running_mean" in trained_state(model["trained"])
    assert trained_state(model["frozen"]) == {}


def test_state_carries_no_graph(model: nn.ModuleDict) -> None:
    assert not any(value.requires_grad for value in trained_state(model).values())


def test_a_loaded_resume_point_continues_exactly_the_unbroken_run(model: nn.ModuleDict, tmp_path: Path) -> None:
    start, path = copy.deepcopy(model), tmp_path / "resume.pt"
    unbroken = optimizer_of(model)
    train(model, unbroken, range(6))

    first = optimizer_of(start)
    train(start, first, range(3))
    ResumePoint(3, trained_state(start), first.state_dict(), {"scale": 2.0}, 12.5).save(path)

    point = ResumePoint.load(path)
    assert point is not None
    assert (point.step, point.precision, point.seconds) == (3, {"scale": 2.0}, 12.5)
    resumed = make_model(seed=1)
    resumed["frozen"].load_state_dict(start["frozen"].state_dict())
    freeze_all_but(resumed, ["trained.*"])
    set_modes(resumed)
    load_state(resumed, point.trained)
    second = optimizer_of(resumed)
    second.load_state_dict(point.optimizer)
    train(resumed, second, range(3, 6))
    for name, value in model.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name


def test_the_file_loads_without_pickles(model: nn.ModuleDict, tmp_path: Path) -> None:
    optimizer = optimizer_of(model)
    train(model, optimizer, range(1))
    ResumePoint(1, trained_state(model), optimizer.state_dict(), {}, 1.0, {"forward": {"llm": 2.0}}).save(
        tmp_path / "resume.pt"
    )
    stored = torch.load(tmp_path / "resume.pt", weights_only=True)
    assert set(stored) == {"step", "trained", "optimizer", "precision", "seconds", "flops"}
    del stored["flops"]
    torch.save(stored, tmp_path / "older.pt")
    older = ResumePoint.load(tmp_path / "older.pt")
    assert older is not None
    assert older.flops == {}


def test_there_is_no_resume_point_before_the_first(tmp_path: Path) -> None:
    assert ResumePoint.load(tmp_path / "resume.pt") is None


def killed_while_writing(state: object, file: Path) -> None:
    file.write_bytes(b"half")
    os.kill(os.getpid(), signal.SIGKILL)


def save_and_be_killed(point: ResumePoint, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Save ``point`` in a process of its own that ends in the middle of it."""
    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", killed_while_writing)
        child = os.fork()
        if child == 0:
            try:
                point.save(path)
            finally:
                os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def test_what_a_killed_process_left_is_never_read(
    model: nn.ModuleDict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "resume.pt"
    point = ResumePoint(1, trained_state(model), {}, {})
    save_and_be_killed(point, path, monkeypatch)
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".partial-")
    assert left.read_bytes() == b"half"
    assert ResumePoint.load(path) is None

    point.save(path)
    save_and_be_killed(ResumePoint(2, trained_state(model), {}, {}), path, monkeypatch)
    loaded = ResumePoint.load(path)
    assert loaded is not None
    assert loaded.step == 1


def test_a_failed_write_leaves_the_old_point(
    model: nn.ModuleDict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "resume.pt"
    ResumePoint(1, trained_state(model), {}, {}).save(path)

    def killed(state: object, file: Path) -> None:
        file.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", killed)
    with pytest.raises(OSError, match="disk full"):
        ResumePoint(2, trained_state(model), {}, {}).save(path)
    point = ResumePoint.load(path)
    assert point is not None
    assert point.step == 1
    assert [file.name for file in tmp_path.iterdir()] == ["resume.pt"]


def test_load_state_copies_parameters_and_statistics(model: nn.ModuleDict) -> None:
    train(model, optimizer_of(model), range(2))
    other = make_model(seed=1)
    frozen = copy.deepcopy(other["frozen"].state_dict())
    load_state(other, trained_state(model))
    assert all(torch.equal(other["trained"].state_dict()[k], v) for k, v in model["trained"].state_dict().items())
    assert all(torch.equal(other["frozen"].state_dict()[name], value) for name, value in frozen.items())


@pytest.mark.parametrize(
    ("wrong", "value"),
    [("trained.linear.scale", torch.zeros(3)), ("trained.linear.bias", torch.zeros(5))],
    ids=["unknown name", "other shape"],
)
def test_a_state_that_does_not_fit_is_named_and_nothing_is_copied(
    wrong: str, value: Tensor, model: nn.ModuleDict
) -> None:
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=rf"^1 tensors do not fit this model and 0 are missing, such as {wrong}$"):
        load_state(model, {"trained.linear.weight": torch.ones(4, 3), wrong: value})
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in before.items())


def test_a_state_that_lacks_what_is_expected_is_refused_and_nothing_is_copied(model: nn.ModuleDict) -> None:
    before = copy.deepcopy(model.state_dict())
    state = {name: value + 1 for name, value in trained_state(model).items()}
    del state["trained.norm.weight"], state["trained.linear.bias"]
    named = "trained.linear.bias, trained.norm.weight"
    with pytest.raises(ValueError, match=f"^0 tensors do not fit this model and 2 are missing, such as {named}$"):
        load_state(model, state, expected=trained_state(model))
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in before.items())


def test_loading_keeps_parameters_trainable_and_the_same_objects(model: nn.ModuleDict) -> None:
    parameter = model["trained"].linear.weight
    load_state(model, {"trained.linear.weight": torch.ones(4, 3)})
    assert model["trained"].linear.weight is parameter
    assert parameter.requires_grad
    assert parameter.is_leaf
