"""Projectors: compressed encoder features to the width of the LLM's embeddings."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from omni_avsr.config import CompressionConfig, ProjectorConfig
from omni_avsr.types import Features, Modality


class MLPProjector(nn.Module):
    """Linear, ReLU, Linear, and an explicit layer norm (Omni-AVSR 1.2; the published code lost the norm, 1.8 D1)."""

    def __init__(self, input_dim: int, hidden_dim: int, output_dim: int, output_std: float | None) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(input_dim, hidden_dim), nn.ReLU(), nn.Linear(hidden_dim, output_dim))
        if output_std is not None:
            norm = nn.LayerNorm(output_dim)
            # Tokens start with the spread of the LLM's own embeddings, which is far below a layer norm's 1.
            nn.init.constant_(norm.weight, output_std)
            self.layers.append(norm)

    def forward(self, values: Tensor) -> Tensor:
        """[B, N, input_dim] -> [B, N, output_dim]."""
        return self.layers(values)


class ModalityProjector(nn.Module):
    """The projectors of one modality: one per rate, or one that all rates share."""

    def __init__(
        self,
        modality: Modality,
        encoder_dim: int,
        llm_dim: int,
        embedding_std: float,
        projector: ProjectorConfig,
        compression: CompressionConfig,
    ) -> None:
        super().__init__()
        self.shared = projector.sharing == "shared"
        rates = compression.rates_of(modality)
        if self.shared and compression.mode == "stack" and len(rates) > 1:
            raise ValueError(f"stacking gives each of the {modality} rates {list(rates)} its own width; share per_rate")
        std = embedding_std if projector.has_layer_norm(modality) else None
        self.by_rate = nn.ModuleDict()
        for rate in rates[:1] if self.shared else rates:
            width = encoder_dim * (rate if compression.mode == "stack" else 1)
            key = "shared" if self.shared else str(rate)
            self.by_rate[key] = MLPProjector(width, projector.hidden_dim, llm_dim, std)

    def forward(self, features: Features, rate: int) -> Features:
        """Features compressed at ``rate`` -> tokens [B, N, llm_dim], zeros behind each length."""
        tokens = self.of_rate(rate)(features.values)
        mask = features.mask()[..., None]
        return Features(torch.where(mask, tokens, torch.zeros((), dtype=tokens.dtype)), features.lengths)

    def of_rate(self, rate: int) -> MLPProjector:
        """The projector of features that were compressed at ``rate``."""
        projector = self.by_rate["shared" if self.shared else str(rate)]
        assert isinstance(projector, MLPProjector)
        return projector
