"""Models that transformers saved: a folder with config.json and the weights, in one file or in shards."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError

import torch
from torch import Tensor, nn

from omni_avsr.streaming import in_file, read_all
from omni_avsr.weights import weight_files


def check_model_type(folder: Path, expected: str) -> None:
    """Raise ValueError when ``folder`` has no config.json, or that of another kind of model."""
    path = folder / "config.json"
    if not path.is_file():
        raise ValueError(f"{path} does not exist: the folder of a model holds config.json and model.safetensors")
    model_type = json.loads(path.read_text()).get("model_type")
    if model_type != expected:
        raise ValueError(f'{path} describes a "{model_type}" model, not a "{expected}" one')


def read_tensors(folder: Path, dtype: torch.dtype, parts: tuple[str, ...] = ("",)) -> dict[str, Tensor]:
    """The tensors of ``folder`` whose names begin with one of ``parts``, on the CPU as ``dtype``; no second copy of
    what is in safetensors. No code in a file is run.

    Raises:
        ValueError: no weights in the folder, or a file that is none of PyTorch's.
    """
    found: dict[str, Tensor] = {}
    for file in weight_files(folder):
        found |= _read_safetensors(file, dtype, parts) if file.suffix == ".safetensors" else _read_bin(file, parts)
    return found


def load_strictly(module: nn.Module, state: Mapping[str, Tensor], source: str, dtype: torch.dtype) -> None:
    """Fill ``module``, which may be on the meta device, with ``state`` as ``dtype``.

    Raises:
        ValueError: naming ``source`` and every name and shape that differs from the module's.
    """
    try:
        module.load_state_dict({name: value.to(dtype) for name, value in state.items()}, assign=True)
    except RuntimeError as error:
        raise ValueError(f"{source} do not fit its config.json: {error}") from error


def _read_safetensors(file: Path, dtype: torch.dtype, parts: tuple[str, ...]) -> dict[str, Tensor]:
    return read_all({name: rows for name, rows in in_file(file) if name.startswith(parts)}, dtype)


def _read_bin(file: Path, parts: tuple[str, ...]) -> dict[str, Tensor]:
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except (RuntimeError, UnpicklingError) as error:
        raise ValueError(f"{file} is no state dict that can be read safely: {error}") from error
    return {name: value for name, value in state.items() if name.startswith(parts)}
