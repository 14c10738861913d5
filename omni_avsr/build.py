"""``ModelConfig`` -> model, top to bottom."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from omni_avsr.adapters import add_adapters
from omni_avsr.config import ModelConfig
from omni_avsr.encoders.build import SpeechEncoder, build_encoder
from omni_avsr.gated_mlp import use_lean_mlps
from omni_avsr.linear import use_onednn
from omni_avsr.llm import LLM, load_llm
from omni_avsr.model import OmniAVSR
from omni_avsr.projector import ModalityProjector
from omni_avsr.types import Modality


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


def build_model(config: ModelConfig, seed: int, encoders: Mapping[Modality, SpeechEncoder] | None = None) -> OmniAVSR:
    """Build the whole model: base weights as ``config`` names them, new parts random after ``seed``.

    Args:
        encoders: in place of those that ``config`` describes.

    Raises:
        ValueError: base weights cannot be found or are not the ones that the config pins.
    """
    if encoders is None:
        encoders = _encoders(config, seed, tuple(Modality))
    part = config.llm
    llm = load_llm(part.weights, getattr(torch, part.dtype), part.sha256, part.num_layers)
    return assemble_model(config, llm, encoders, seed)


def assemble_model(config: ModelConfig, llm: LLM, encoders: Mapping[Modality, SpeechEncoder], seed: int) -> OmniAVSR:
    """The whole model from an LLM and encoders that are there already; new parts random after ``seed``."""
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
        generator = torch.Generator().manual_seed(seed)
        router = add_adapters(llm.model, config.adapters, generator, config.tasks)
        model = OmniAVSR(config, llm, router, encoders, projectors)
        use_lean_mlps(model.llm)
        use_onednn(model)
        return model
