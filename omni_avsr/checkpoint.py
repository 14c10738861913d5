"""Checkpoint folders: what was trained, and everything that rebuilds the model around it.

``config.json``               model settings, base weights with their sha256, how it was trained, format version
``trained.safetensors``       every tensor that no base model provides but the LLM's adapters, batch-norm statistics
                              included, and those of a base model that were trained
``adapters/<name>/``          each LoRA adapter of the LLM, in peft's own layout
``README.md``                 a model card, made from the config
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from peft.utils import SAFETENSORS_WEIGHTS_NAME
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from omni_avsr.adapters import LORA, MergedRouter, adapter_names, load_adapter, parameter_name, save_adapter
from omni_avsr.build import Merge, build_llm, build_model
from omni_avsr.config import DType, ModelConfig, QuantizationChoice, from_mapping, to_mapping
from omni_avsr.encoders.build import SpeechEncoder
from omni_avsr.encoders.exported import ExportedEncoder, load_exported
from omni_avsr.files import replacing_folder, write_atomically
from omni_avsr.llm import LLM
from omni_avsr.model import OmniAVSR
from omni_avsr.model_card import CARD, model_card
from omni_avsr.provenance import file_sha256
from omni_avsr.resume import load_state
from omni_avsr.types import Modality, Task
from omni_avsr.users import Enrolment, read_enrolment, read_tensors
from omni_avsr.weights import resolve

log = logging.getLogger(__name__)

FORMAT_VERSION = 1
CONFIG, TRAINED, ADAPTERS = "config.json", "trained.safetensors", "adapters"
PARTS = (CONFIG, CARD, TRAINED, ADAPTERS)
"""What a checkpoint folder holds."""


@dataclass(frozen=True)
class CheckpointInfo:
    """What a checkpoint says of itself.

    training: its domain, data, stages, commit and date.
    trained_base: names of base models' tensors that were trained, and so stand in the checkpoint.
    """

    model: ModelConfig
    training: Mapping[str, Any]
    trained_base: tuple[str, ...] = ()


def save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a safetensors file atomically."""
    # Bytes written from here get the usual permissions; safetensors' own writer makes files for the owner only.
    data = save({name: value.cpu().contiguous() for name, value in tensors.items()})
    write_atomically(path, data)


def pin_base_weights(config: ModelConfig) -> ModelConfig:
    """The settings with the sha256 of every base model in them, so that others under the same name are noticed."""
    return config.pinned({prefix: resolve(base.reference).sha256() for prefix, base in config.base_weights.items()})


def save_checkpoint(
    folder: Path,
    model: OmniAVSR,
    trained: Mapping[str, Tensor],
    training: Mapping[str, Any],
    dtype: torch.dtype | None = None,
) -> None:
    """Write ``folder``, whole or not at all; a checkpoint in it is replaced, and stays as it is when anything fails.

    Files that are no part of a checkpoint, such as those of a cloned repository, are kept.

    Parts of the model that no stage trained are stored as well, since nothing else could give them back.

    Args:
        trained: names and values of all tensors that any stage trained; ``model`` holds the same.
        training: what to say of the training (JSON values).
        dtype: of the stored floating-point tensors; None keeps them.

    Raises:
        ValueError: base weights cannot be found, a tensor is not finite in ``dtype``, ``folder`` is no checkpoint
            but has files of the same names, the adapters of ``model`` are merged, or it runs exported encoders, whose
            weights it does not have.
    """
    if isinstance(model.router, MergedRouter):
        raise ValueError(
            f"the adapters of {model.router.task} are merged into this model, and cannot be stored any more; "
            "load the checkpoint without merging to save it"
        )
    if any(isinstance(part, ExportedEncoder) for part in model.modules()):
        raise ValueError("a model that runs exported encoders does not hold their weights; load it without, to save it")
    if not _is_checkpoint(folder) and (taken := [name for name in PARTS if (folder / name).exists()]):
        raise ValueError(
            f"{folder} is no checkpoint and holds {', '.join(taken)}, which would be replaced; choose another"
        )
    own = _own_names(model)
    base = {name: value for name, value in trained.items() if name not in own and LORA not in name}
    tensors = {name: value for name, value in model.state_dict().items() if name in own} | base
    stored = {name: value.to(dtype) if value.is_floating_point() else value for name, value in tensors.items()}
    if bad := [name for name, value in stored.items() if not bool(value.isfinite().all())]:
        raise ValueError(f"{len(bad)} tensors are not finite in {dtype or 'their own dtype'}, such as {sorted(bad)[0]}")
    pinned = pin_base_weights(model.config)
    config = {
        "format_version": FORMAT_VERSION,
        "model": to_mapping(pinned),
        "training": dict(training),
        **({"trained_base": sorted(base)} if base else {}),
    }
    with replacing_folder(folder, PARTS) as partial:
        (partial / CONFIG).write_text(json.dumps(config, indent=2, allow_nan=False) + "\n")
        (partial / CARD).write_text(model_card(pinned, training))
        save_tensors(partial / TRAINED, stored)
        for name in adapter_names(model.config.adapters, model.config.tasks):
            save_adapter(model.llm, name, partial / ADAPTERS / name, dtype, model.config.llm.weights)


def _is_checkpoint(folder: Path) -> bool:
    try:
        read_info(folder)
    except (OSError, ValueError):
        return False
    return True


def read_info(folder: Path) -> CheckpointInfo:
    """Read ``config.json`` of a checkpoint folder.

    Raises:
        ValueError: there is none, it cannot be read, or it is of another format.
    """
    values = _read_config(folder)
    model = from_mapping(ModelConfig, values["model"], "model")
    return CheckpointInfo(model, values["training"], tuple(values.get("trained_base", ())))


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG
    if not path.is_file():
        raise ValueError(f"{folder} is no checkpoint: it has no {CONFIG}")
    try:
        values = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    version = values.get("format_version") if isinstance(values, dict) else None
    if version != FORMAT_VERSION:
        raise ValueError(f"{path} has format version {version}, this release reads {FORMAT_VERSION}")
    if missing := {"model", "training"} - values.keys():
        raise ValueError(f"{path} lacks {' and '.join(sorted(missing))}")
    return dict(values)


def checkpoint_sha256(folder: Path) -> str:
    """Fingerprint of what decides a checkpoint's outputs: its model settings and weights. ValueError: it is none."""
    # As they are stored: settings that a later release adds, at their defaults, change nothing.
    settings = json.dumps(_read_config(folder)["model"], sort_keys=True)
    weights = file_sha256(*sorted((folder / ADAPTERS).rglob("*.safetensors")), folder / TRAINED)
    return hashlib.sha256(f"{settings}{weights}".encode()).hexdigest()


def stored_tensors(folder: Path) -> dict[str, Tensor]:
    """Every tensor of a checkpoint folder, adapters included, by its name in the whole model.

    Raises:
        ValueError: the folder is no checkpoint, or a file of it cannot be read.
    """
    config = read_info(folder).model
    tensors = dict(StoredTensors(folder / TRAINED))
    for name in adapter_names(config.adapters, config.tasks):
        for key, value in StoredTensors(folder / ADAPTERS / name / SAFETENSORS_WEIGHTS_NAME).items():
            tensors[f"llm.{parameter_name(key, name)}"] = value
    return tensors


class StoredTensors(Mapping[str, Tensor]):
    """The tensors of a file but those whose names begin with one of ``but``, each read when it is asked for.

    Each is mapped by itself: what a mapping has touched counts as memory until nothing of it is in use.

    Raises:
        ValueError: the file cannot be read.
    """

    def __init__(self, path: Path, but: tuple[str, ...] = ()) -> None:
        self._path = path
        try:
            with safe_open(path, "pt") as stored:
                self._names = [name for name in stored.keys() if not name.startswith(but)]  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            raise ValueError(f"{path} cannot be read: {error}") from error

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._names:
            raise KeyError(name)
        with safe_open(self._path, "pt") as stored:
            tensor: Tensor = stored.get_tensor(name)
            return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def load_checkpoint(
    folder: Path,
    llm_dtype: DType | None = None,
    quantization: QuantizationChoice | None = None,
    merged_task: Task | None = None,
    encoders: Path | None = None,
    user: Path | None = None,
) -> OmniAVSR:
    """Rebuild the model of a checkpoint folder, frozen and in evaluation mode.

    Beside quantised weights the LLM's adapters are in its dtype too, not in float32.

    Args:
        llm_dtype: another dtype for the LLM's base weights than they were trained with.
        quantization: of these weights, if another than they were trained with; "none" for floats.
        merged_task: add the adapters of this task to the weights, before they are quantised; the model then does this
            task alone, and a pass costs no more than one of the base model.
        encoders: a folder of encoders that were exported from this checkpoint, to run in place of torch's, whose
            weights are not read then. Such a model cannot be saved.
        user: a person's folder (``users``), whose tensors take the place of the checkpoint's.

    Raises:
        ValueError: base weights are missing or are others than the adapters were trained on, tensors or adapters are
            missing, unknown or misshapen, the exported encoders are another checkpoint's, or the LLM's own weights
            were trained, and it is to be quantised or merged; or the person was enrolled for another checkpoint.
    """
    info = read_info(folder)
    config = changed_llm(info.model, llm_dtype, quantization)
    personal: dict[str, Tensor] = {}
    replaced: tuple[str, ...] = ()
    if user is not None:
        enrolment, personal = _enrolment(user, folder), read_tensors(user)
        if merged_task is not None and any(LORA in name for name in personal):
            raise ValueError(f"the adapters of {user.name} cannot be merged; load without merging")
        config, replaced = enrolment.applied(config), enrolment.replaced
    if config.llm.quantization is not None:
        _check_frozen(folder, info)
    merge = None if merged_task is None else _merge(folder, info, merged_task)
    exported = None if encoders is None else _exported_encoders(encoders, folder, config)
    # A model that is loaded is there to be run, and memory is why it is quantised.
    narrow = getattr(torch, config.llm.dtype) if config.llm.quantization is not None else torch.float32
    model = build_model(config, 0, merge, exported, narrow)
    elsewhere = tuple(f"encoders.{modality}.encoder." for modality in exported or ())
    expected = _own_names(model) | {name for name in info.trained_base if not name.startswith(elsewhere)}
    expected -= {name for name in expected if name.startswith(replaced)}
    state = StoredTensors(folder / TRAINED, but=elsewhere + replaced)
    if unknown := sorted(state.keys() - expected):
        raise ValueError(
            f"{folder / TRAINED} holds {len(unknown)} tensors of no part of this model, such as {unknown[0]}"
        )
    load_state(model, state, expected)
    found = {path.name for path in (folder / ADAPTERS).glob("*") if path.is_dir()}
    wanted = set(adapter_names(config.adapters, config.tasks))
    if found != wanted:
        raise ValueError(f"{folder / ADAPTERS} holds the adapters {sorted(found)}, the model has {sorted(wanted)}")
    for name in sorted(wanted) if merged_task is None else ():
        load_adapter(model.llm, name, folder / ADAPTERS / name)
    load_state(model, personal, {name for name in model.state_dict() if name.startswith(replaced)})
    return model.requires_grad_(False).eval()


def _enrolment(user: Path, folder: Path) -> Enrolment:
    found = read_enrolment(user)
    if found.checkpoint_sha256 != checkpoint_sha256(folder):
        raise ValueError(
            f"{user.name} was enrolled for another checkpoint than {folder}; run omni-avsr personalize with this one"
        )
    return found


def load_merged_llm(folder: Path, task: Task, dtype: DType | None = None) -> LLM:
    """The LLM of a checkpoint folder alone, with the adapters of ``task`` added to its weights.

    Raises:
        ValueError: as ``load_checkpoint`` says.
    """
    info = read_info(folder)
    return build_llm(changed_llm(info.model, dtype, "none"), _merge(folder, info, task))


def _merge(folder: Path, info: CheckpointInfo, task: Task) -> Merge:
    _check_frozen(folder, info)
    if task not in info.model.tasks:
        raise ValueError(f"this checkpoint is for {', '.join(info.model.tasks)}, not for {task}")
    return Merge(task, folder / ADAPTERS)


def changed_llm(config: ModelConfig, dtype: DType | None, quantization: QuantizationChoice | None) -> ModelConfig:
    """The settings with the LLM's weights in another dtype or format; None leaves them."""
    changes: dict[str, Any] = {}
    if dtype is not None:
        changes["dtype"] = dtype
    if quantization is not None:
        changes["quantization"] = None if quantization == "none" else quantization
    return replace(config, llm=replace(config.llm, **changes))


def _check_frozen(folder: Path, info: CheckpointInfo) -> None:
    if trained := [name for name in info.trained_base if name.startswith("llm.")]:
        raise ValueError(
            f"{folder} holds {len(trained)} trained weights of the LLM itself, such as {trained[0]}; "
            "it can be neither quantised nor merged"
        )


def _exported_encoders(encoders: Path, folder: Path, config: ModelConfig) -> dict[Modality, SpeechEncoder]:
    found = load_exported(encoders, checkpoint_sha256(folder))
    parts = {modality: config.encoder_of(modality) for modality in found}
    return {m: SpeechEncoder(found[m], part.ctc) for m, part in parts.items() if part is not None}


def _own_names(model: OmniAVSR) -> set[str]:
    """Parameters and buffers that no base model provides, adapters apart: a checkpoint has to hold them."""
    bases = tuple(model.config.base_weights)
    return {name for name in model.state_dict() if not name.startswith(bases) or _is_encoder_lora(name)}


def _is_encoder_lora(name: str) -> bool:
    return name.startswith("encoders.") and LORA in name


def on_device(model: OmniAVSR, device: str) -> OmniAVSR:
    """The model on a device. ValueError: torch has no such device."""
    try:
        return model.to(device)
    except (AssertionError, RuntimeError) as error:  # torch without CUDA, no GPU, or a device that does not exist
        raise ValueError(f"device {device} cannot be used: {error}") from error
