"""``ModelConfig`` -> model, top to bottom."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import nn

from omni_avsr.adapters import AdapterRouter, MergedRouter, add_adapters, merged
from omni_avsr.config import ModelConfig
from omni_avsr.encoders.build import SpeechEncoder, build_encoder
from omni_avsr.gated_mlp import use_lean_mlps
from omni_avsr.linear import use_onednn
from omni_avsr.llm import LLM, Change, load_llm
from omni_avsr.model import OmniAVSR
from omni_avsr.projector import ModalityProjector
from omni_avsr.types import Modality, Task


class Encoders(nn.Module):
    """The encoders of a model without its LLM, under the names they have in the whole model."""

    def __init__(self, encoders: nn.ModuleDict) -> None:
        super().__init__()
        self.encoders = encoders


def build_encoders(config: ModelConfig, seed: int, modalities: Sequence[Modality] = tuple(Modality)) -> Encoders:
    """Build the encoders that ``config`` has for ``modalities``; random initialisation follows ``seed``."""
    encoders = Encoders(nn.ModuleDict({str(m): encoder for m, encoder in _encoders(config, seed, modalities).items()}))
    use_onednn(encoders)
    return encoders


def _encoders(config: ModelConfig, seed: int, modalities: Sequence[Modality]) -> dict[Modality, SpeechEncoder]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return {m: build_encoder(part) for m in modalities if (part := config.encoder_of(m)) is not None}


@dataclass(frozen=True)
class Merge:
    """The adapters of one task, in the folder of adapters of a checkpoint, to be added to the LLM's weights."""

    task: Task
    adapters: Path


def build_model(
    config: ModelConfig,
    seed: int,
    merge: Merge | None = None,
    encoders: Mapping[Modality, SpeechEncoder] | None = None,
    adapter_dtype: torch.dtype = torch.float32,
) -> OmniAVSR:
    """Build the whole model: base weights as ``config`` names them, new parts random after ``seed``.

    Args:
        merge: what the LLM's weights hold instead of adapters; the model then does this task alone.
        encoders: in place of those that ``config`` describes.
        adapter_dtype: of the LLM's adapters; another one than float32 is for models that only run.

    Raises:
        ValueError: base weights cannot be found or are not the ones that the config pins.
    """
    if encoders is None:
        encoders = _encoders(config, seed, tuple(Modality))
    llm = build_llm(config, merge)
    if merge is None:
        router = new_adapters(config, llm, seed, adapter_dtype)
    else:
        router = MergedRouter(llm.model, config.adapters, merge.task)
    return assemble_model(config, llm, encoders, seed, router)


def build_without_decoder(config: ModelConfig, seed: int) -> OmniAVSR:
    """The whole model but for the LLM's layers and adapters: what there is to train towards its embeddings.

    It runs neither loss nor generation. ValueError: as of ``build_model``, or the markers are a part of the LLM.
    """
    if config.markers.place == "vocabulary":
        raise ValueError("markers in the LLM's vocabulary need its output matrix; build the whole model")
    part = config.llm
    llm = load_llm(part.weights, getattr(torch, part.dtype), part.sha256, embeddings_only=True)
    encoders = _encoders(config, seed, tuple(Modality))
    return assemble_model(config, llm, encoders, seed, AdapterRouter(llm.model, config.adapters))


def new_adapters(config: ModelConfig, llm: LLM, seed: int, dtype: torch.dtype = torch.float32) -> AdapterRouter:
    """Put the adapters that ``config`` says on an LLM, as they start."""
    return add_adapters(llm.model, config.adapters, torch.Generator().manual_seed(seed), config.tasks, dtype)


def build_llm(config: ModelConfig, merge: Merge | None = None) -> LLM:
    """The LLM alone, without adapters, or with those of ``merge`` in its weights. ValueError: as ``load_llm`` says."""
    part = config.llm
    change: Change | None = None
    if merge is not None:
        change = partial(merged, folder=merge.adapters, config=config.adapters, task=merge.task)
    dtype = getattr(torch, part.dtype)
    return load_llm(part.weights, dtype, part.sha256, part.num_layers, part.quantization, change)


def assemble_model(
    config: ModelConfig, llm: LLM, encoders: Mapping[Modality, SpeechEncoder], seed: int, router: AdapterRouter
) -> OmniAVSR:
    """The whole model from an LLM with its adapters' router, and encoders; new parts random after ``seed``."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        projectors = {
            modality: ModalityProjector(
                modality,
                encoder.output_dim,
                llm.hidden_size,
                llm.embedding_std,
                config.projector,
                config.compression,
            )
            for modality, encoder in encoders.items()
        }
        model = OmniAVSR(config, llm, router, encoders, projectors)
        use_lean_mlps(model.llm)
        use_onednn(model)
        return model
