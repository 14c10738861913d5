"""The resume point of a stage: trained weights, optimizer and step, in one file that loads without pickles.

Everything random is a function of (seed, step), so these are the whole state; nothing of the loader, the generators or
Lightning's loops has to be restored.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from omni_avsr.files import replacing
from omni_avsr.sharding import whole


@dataclass(frozen=True)
class ResumePoint:
    """State after ``step`` optimizer steps of a stage, which took ``seconds`` and ``flops`` of training so far.

    flops: "forward" and "backward", each by part of the model.
    """

    step: int
    trained: dict[str, Tensor]
    optimizer: dict[str, Any]
    precision: dict[str, Any]
    seconds: float = 0.0
    flops: dict[str, dict[str, float]] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        """Write atomically: a kill leaves the old file or the new one."""
        with replacing(path) as partial:
            torch.save(vars(self), partial)

    @classmethod
    def load(cls, path: Path) -> ResumePoint | None:
        """Read a resume point, or None when there is none yet."""
        if not path.is_file():
            return None
        return cls(**torch.load(path, map_location="cpu", weights_only=True))


def trained_state(module: nn.Module) -> dict[str, Tensor]:
    """Trainable parameters, and the buffers (batch norm statistics) of modules in training mode, by name.

    Buffers that are not persistent, such as rotary frequencies, are derived from settings and left out. All processes
    of a sharded training have to ask together.
    """
    state = module.state_dict()
    names = [name for name, value in module.named_parameters() if value.requires_grad]
    for prefix, part in module.named_modules():
        if part.training:
            names += [name for name, _ in part.named_buffers(prefix, recurse=False) if name in state]
    return {name: whole(state[name]) for name in names}


@torch.no_grad()
def load_state(module: nn.Module, state: Mapping[str, Tensor], expected: Iterable[str] = ()) -> None:
    """Copy ``state`` into ``module``.

    Args:
        expected: names that ``state`` must hold.

    Raises:
        ValueError: a name or shape does not fit, or an expected name is missing; nothing is copied then.
    """
    own = dict(module.named_parameters()) | dict(module.named_buffers())
    wrong = [name for name, value in state.items() if name not in own or own[name].shape != value.shape]
    missing = [name for name in expected if name not in state]
    if wrong or missing:
        raise ValueError(
            f"{len(wrong)} tensors do not fit this model and {len(missing)} are missing, "
            f"such as {', '.join(sorted(wrong + missing)[:5])}"
        )
    for name, value in state.items():
        own[name].copy_(value)
