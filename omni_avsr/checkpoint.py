"""Checkpoint folders: what was trained, and everything that rebuilds the model around it.

``config.json``               model settings, base weights with their sha256, how it was trained, format version
``trained.safetensors``       all trained tensors but the adapters, batch-norm statistics of trained encoders included
``adapters/<name>/``          each LoRA adapter in peft's own layout
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from omni_avsr.adapters import load_adapter, save_adapter
from omni_avsr.build import build_model
from omni_avsr.config import DType, ModelConfig, WhisperConfig, from_mapping, to_mapping
from omni_avsr.files import replacing
from omni_avsr.model import OmniAVSR
from omni_avsr.resume import load_state
from omni_avsr.weights import resolve

log = logging.getLogger(__name__)

FORMAT_VERSION = 1
CONFIG, TRAINED, ADAPTERS = "config.json", "trained.safetensors", "adapters"
_LORA = ".lora_"


@dataclass(frozen=True)
class CheckpointInfo:
    """What a checkpoint says of itself: its model, and under ``training`` its domain, data, stages, commit and date."""

    model: ModelConfig
    training: Mapping[str, Any]


def save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a safetensors file atomically."""
    with replacing(path) as partial:
        save_file({name: value.contiguous() for name, value in tensors.items()}, partial)


def pin_base_weights(config: ModelConfig) -> ModelConfig:
    """The settings with the sha256 of every base model in them, so that others under the same name are noticed."""
    audio = config.audio_encoder
    if isinstance(audio, WhisperConfig):
        audio = replace(audio, sha256=resolve(audio.weights).sha256())
    return replace(config, audio_encoder=audio, llm=replace(config.llm, sha256=resolve(config.llm.weights).sha256()))


def save_checkpoint(
    folder: Path,
    model: OmniAVSR,
    trained: Mapping[str, Tensor],
    training: Mapping[str, Any],
    dtype: torch.dtype | None = None,
) -> None:
    """Write ``folder``, whole or not at all; an existing one is replaced.

    Args:
        trained: names and values of all tensors that any stage trained.
        training: what to say of the training (JSON values).
        dtype: of the stored floating-point tensors; None keeps them.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    partial.chmod(0o755)
    try:
        config = {
            "format_version": FORMAT_VERSION,
            "model": to_mapping(pin_base_weights(model.config)),
            "training": dict(training),
        }
        (partial / CONFIG).write_text(json.dumps(config, indent=2) + "\n")
        tensors = {name: value for name, value in trained.items() if _LORA not in name}
        save_file(
            {n: v.to(dtype if v.is_floating_point() else None).contiguous() for n, v in tensors.items()},
            partial / TRAINED,
        )
        names = {name.rsplit(".", 2)[1] for name in trained if _LORA in name}
        for name in sorted(names):
            save_adapter(model.llm, name, partial / ADAPTERS / name, dtype, model.config.llm.weights)
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def read_info(folder: Path) -> CheckpointInfo:
    """Read ``config.json`` of a checkpoint folder.

    Raises:
        ValueError: there is none, or it is of another format.
    """
    path = folder / CONFIG
    if not path.is_file():
        raise ValueError(f"{folder} is no checkpoint: it has no {CONFIG}")
    values = json.loads(path.read_text())
    if values.get("format_version") != FORMAT_VERSION:
        raise ValueError(
            f"{path} has format version {values.get('format_version')}, this release reads {FORMAT_VERSION}"
        )
    return CheckpointInfo(from_mapping(ModelConfig, values["model"], "model"), values["training"])


def load_checkpoint(folder: Path, llm_dtype: DType | None = None) -> OmniAVSR:
    """Rebuild the model of a checkpoint folder, frozen and in evaluation mode.

    Args:
        llm_dtype: another dtype for the LLM's base weights than they were trained with.

    Raises:
        ValueError: base weights are missing or are others than the adapters were trained on, or tensors do not fit.
    """
    config = read_info(folder).model
    if llm_dtype is not None:
        config = replace(config, llm=replace(config.llm, dtype=llm_dtype))
    model = build_model(config, seed=0)
    state = load_file(folder / TRAINED)
    load_state(model, state, expected=_expected(model))
    for path in sorted((folder / ADAPTERS).glob("*")):
        load_adapter(model.llm, path.name, path)
    return model.requires_grad_(False).eval()


def _expected(model: OmniAVSR) -> set[str]:
    """Names that no base model provides, so that a checkpoint has to."""
    own = {name for name, _ in model.named_parameters() if not name.startswith("llm.")}
    whisper = isinstance(model.config.audio_encoder, WhisperConfig)
    return {name for name in own if not (whisper and name.startswith("encoders.audio.encoder."))}
