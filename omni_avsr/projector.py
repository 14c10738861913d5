"""Projectors: compressed encoder features to the width of the LLM's embeddings."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from omni_avsr.config import AnyProjectorConfig, BridgeFormerConfig, CompressionConfig
from omni_avsr.types import Features, Modality


class MLPProjector(nn.Module):
    """Linear, ReLU, Linear, and an explicit layer norm (Omni-AVSR 1.2; the published code lost the norm, 1.8 D1)."""

    def __init__(self, input_dim: int, hidden_dim: int, output_dim: int, output_std: float | None) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(input_dim, hidden_dim), nn.ReLU(), nn.Linear(hidden_dim, output_dim))
        if output_std is not None:
            self.layers.append(embedding_norm(output_dim, output_std))

    def forward(self, features: Features) -> Features:
        """[B, N, input_dim] -> [B, N, output_dim]."""
        return Features(self.layers(features.values), features.lengths)

    def num_tokens(self, lengths: Tensor) -> Tensor:
        """Tokens that rows of ``lengths`` vectors become."""
        return lengths


class BridgeFormer(nn.Module):
    """Tiny-Align's projector (section 2), with the sizes of ``BridgeFormerConfig``.

    There are no positions in it: features carry the order already, and each clip is pooled in parts of equal length.
    """

    def __init__(self, input_dim: int, output_dim: int, output_std: float | None, config: BridgeFormerConfig) -> None:
        super().__init__()
        dim, self.size = config.hidden_dim, config.num_tokens
        self.width = dim
        self.widen = nn.Sequential(nn.Linear(input_dim, dim), nn.GELU(), nn.Linear(dim, dim))
        layer = nn.TransformerEncoderLayer(
            dim, config.num_heads, config.ffn_dim, config.dropout, "gelu", batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, config.num_layers, nn.LayerNorm(dim), enable_nested_tensor=False)
        self.narrow = nn.Sequential(nn.Linear(dim, dim), nn.GELU(), nn.Linear(dim, output_dim))
        if output_std is not None:
            self.narrow.append(embedding_norm(output_dim, output_std))

    def forward(self, features: Features) -> Features:
        """[B, N, input_dim] -> [B, T, output_dim], or [B, N, output_dim] without pooling."""
        mask = features.mask()
        # A row of padding alone would have nothing to attend to.
        hidden = self.encoder(self.widen(features.values), src_key_padding_mask=~mask & mask.any(1, keepdim=True))
        if self.size is not None:
            hidden = pool(Features(hidden, features.lengths), self.size)
        return Features(self.narrow(hidden), self.num_tokens(features.lengths))

    def num_tokens(self, lengths: Tensor) -> Tensor:
        """Tokens that rows of ``lengths`` vectors become."""
        return lengths if self.size is None else torch.full_like(lengths, self.size)


def pool(features: Features, size: int) -> Tensor:
    """[B, N, D] -> [B, size, D]: means over ``size`` parts of each row, which overlap where it is shorter than that."""
    lengths, places = features.lengths[:, None], torch.arange(size, device=features.lengths.device)
    starts, ends = places * lengths // size, -(-(places + 1) * lengths // size)
    steps = torch.arange(features.values.shape[1], device=features.values.device)
    inside = (steps >= starts[..., None]) & (steps < ends[..., None])
    weights = inside.to(features.values.dtype)
    return (weights / weights.sum(2, keepdim=True).clamp(min=1)) @ features.values


def embedding_norm(dim: int, std: float) -> nn.LayerNorm:
    """A layer norm whose output starts with the spread of the LLM's own embeddings, which is far below 1."""
    norm = nn.LayerNorm(dim)
    nn.init.constant_(norm.weight, std)
    return norm


AnyProjector = MLPProjector | BridgeFormer


class ModalityProjector(nn.Module):
    """The projectors of one modality: one per rate, or one that all rates share."""

    def __init__(
        self,
        modality: Modality,
        encoder_dim: int,
        llm_dim: int,
        embedding_std: float,
        projector: AnyProjectorConfig,
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
            if isinstance(projector, BridgeFormerConfig):
                self.by_rate[key] = BridgeFormer(width, llm_dim, std, projector)
            else:
                self.by_rate[key] = MLPProjector(width, projector.hidden_dim, llm_dim, std)

    def forward(self, features: Features, rate: int) -> Features:
        """Features compressed at ``rate`` -> tokens [B, N, llm_dim], zeros behind each length."""
        tokens: Features = self.of_rate(rate)(features)
        mask = tokens.mask()[..., None]
        return Features(torch.where(mask, tokens.values, torch.zeros((), dtype=tokens.values.dtype)), tokens.lengths)

    def of_rate(self, rate: int) -> AnyProjector:
        """The projector of features that were compressed at ``rate``."""
        projector = self.by_rate["shared" if self.shared else str(rate)]
        assert isinstance(projector, AnyProjector)
        return projector
