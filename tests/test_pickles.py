"""Checkpoints that name classes of other packages are read without them; those that would run something are not."""

import argparse
import enum
import sys
import types
from collections import Counter, OrderedDict, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from omni_avsr.pickles import load_with_stubs

WEIGHTS = {"a.weight": torch.arange(3.0), "a.steps": torch.tensor(2)}


class Mode(enum.Enum):
    CONCAT = "concat"


@dataclass
class Settings:
    """One field of each kind that fairseq's settings have."""

    name: str = "large"
    number: int = 24
    share: float = 0.1
    is_first: bool = True
    ratios: list[float] = field(default_factory=lambda: [1.0, 2.0])
    by_name: dict[str, int] = field(default_factory=lambda: {"a": 1})
    path: str | None = None
    mode: Mode = Mode.CONCAT


def test_settings_of_omegaconf_become_stubs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fairseq", fairseq := types.ModuleType("fairseq"))
    for kind in (Mode, Settings):
        monkeypatch.setattr(kind, "__module__", "fairseq")
        monkeypatch.setattr(fairseq, kind.__name__, kind, raising=False)
    settings = OmegaConf.create({"model": OmegaConf.structured(Settings), "plain": {"list": [1, 2.5, "a", None, True]}})
    torch.save({"model": WEIGHTS, "cfg": settings}, tmp_path / "x.pt")
    monkeypatch.undo()
    found = load_with_stubs(tmp_path / "x.pt")
    assert found["model"].keys() == WEIGHTS.keys()
    assert torch.equal(found["model"]["a.weight"], WEIGHTS["a.weight"])
    assert not vars(found["cfg"])


@pytest.mark.parametrize(
    "other",
    [
        argparse.Namespace(rank=32),
        np.float64(3.5),
        np.arange(4),
        Path("labels"),
        Counter("aab"),
        OrderedDict(a=1),
        defaultdict(list, a=[1]),
        {1, 2},
        2**70,
    ],
)
def test_other_values_are_no_obstacle(tmp_path: Path, other: Any) -> None:
    torch.save({"model": WEIGHTS, "other": other}, tmp_path / "x.pt")
    assert torch.equal(load_with_stubs(tmp_path / "x.pt")["model"]["a.weight"], WEIGHTS["a.weight"])


def test_files_of_old_releases_may_hold_tensors(tmp_path: Path) -> None:
    torch.save(WEIGHTS, tmp_path / "x.pt", _use_new_zipfile_serialization=False)
    assert torch.equal(load_with_stubs(tmp_path / "x.pt")["a.weight"], WEIGHTS["a.weight"])


@pytest.mark.parametrize("function", [eval, getattr, Path.unlink])
def test_functions_are_refused(tmp_path: Path, function: Any) -> None:
    class Attack:
        def __reduce__(self) -> tuple[Any, tuple[str]]:
            return function, ("1",)

    torch.save({"model": Attack()}, tmp_path / "x.pt")
    with pytest.raises(ValueError, match=r"x\.pt is no checkpoint that can be read safely"):
        load_with_stubs(tmp_path / "x.pt")
