"""Start a run from parts of a checkpoint: fine-tuning, or going on where another run ended."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic.dataclasses import dataclass
from torch import Tensor

from omni_avsr.checkpoint import checkpoint_sha256, pin_base_weights, read_info, stored_tensors
from omni_avsr.config import STRICT, ModelConfig
from omni_avsr.stages import matching_names


@dataclass(frozen=True, config=STRICT)
class StartConfig:
    """The checkpoint folder to start from, and globs over the names of the tensors to take from it."""

    checkpoint: Path
    parts: tuple[str, ...] = ("*",)


def start_tensors(config: StartConfig, model: ModelConfig) -> dict[str, Tensor]:
    """The chosen tensors of the checkpoint by their names in the whole model.

    Raises:
        ValueError: there is no such checkpoint, a glob matches nothing, or what was trained upon a base model would
            now stand upon another one.
    """
    tensors = stored_tensors(config.checkpoint)
    chosen = matching_names(tensors, config.parts, f"part of {config.checkpoint}")
    _check_bases(chosen, read_info(config.checkpoint).model, pin_base_weights(model))
    return {name: value for name, value in tensors.items() if name in chosen}


def start_record(config: StartConfig) -> dict[str, Any]:
    """What the new checkpoint says of the one that it started from, the history of that one included."""
    return {
        "checkpoint_sha256": checkpoint_sha256(config.checkpoint),
        "parts": list(config.parts),
        "training": dict(read_info(config.checkpoint).training),
    }


def _check_bases(names: Iterable[str], old: ModelConfig, new: ModelConfig) -> None:
    """Raise ValueError when one of ``names`` belongs to a base model of which ``old`` and ``new`` pin other weights."""
    now = new.base_weights
    for prefix, before in old.base_weights.items():
        # What stands upon an encoder, such as a CTC head, depends on it as well.
        for name in sorted(name for name in names if name.startswith(prefix.removesuffix("encoder."))):
            if prefix in now and before.sha256 != now[prefix].sha256:
                raise ValueError(
                    f"{name} was trained upon {before.reference} with sha256 {before.sha256}, but this run's "
                    f"{now[prefix].reference} has {now[prefix].sha256}; give the same weights, or leave the "
                    "part out of start.parts"
                )
