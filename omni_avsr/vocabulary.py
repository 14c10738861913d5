"""An LLM with rows behind its vocabulary, as the published code has them (Omni-AVSR 1.2): it can write markers."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from omni_avsr.config import MarkerConfig


class ExtendedEmbedding(nn.Module):
    """The LLM's embeddings, cut to ``vocab_size`` rows, then the added ones: ids [...] -> [..., H]."""

    def __init__(self, base: nn.Embedding, vocab_size: int, added: nn.Embedding) -> None:
        super().__init__()
        self.base, self.vocab_size = base, vocab_size
        # In a tuple, so that it stays a part of the model that owns it, and not of the LLM.
        self.added = (added,)

    @property
    def weight(self) -> Tensor:
        """The LLM's own rows."""
        return self.base.weight

    def forward(self, ids: Tensor) -> Tensor:
        is_own = ids < self.vocab_size
        own = self.base(ids.where(is_own, 0))
        added = self.added[0]((ids - self.vocab_size).clamp(min=0)).to(own.dtype)
        return torch.where(is_own[..., None], own, added)


class ExtendedHead(nn.Module):
    """The LLM's output matrix, cut to ``vocab_size`` rows, then the added ones: [..., H] -> [..., vocabulary]."""

    def __init__(self, base: nn.Linear, vocab_size: int, added: nn.Embedding) -> None:
        super().__init__()
        self.base, self.vocab_size = base, vocab_size
        self.added = (added,)

    def forward(self, hidden: Tensor) -> Tensor:
        own = self.base(hidden)[..., : self.vocab_size]
        return torch.cat([own, F.linear(hidden, self.added[0].weight.to(hidden.dtype))], dim=-1)


def extend_vocabulary(llm: PreTrainedModel, config: MarkerConfig, markers: nn.Embedding) -> nn.Embedding:
    """Put ``markers`` behind the vocabulary of ``llm``, in place.

    Returns:
        The rows of the output matrix that stand for them, frozen; they start as ``markers``, and are others where an
        LLM does not tie the two matrices.

    Raises:
        ValueError: the LLM has fewer rows than ``config.vocab_size``.
    """
    head, embedding = llm.get_output_embeddings(), llm.get_input_embeddings()
    assert isinstance(head, nn.Linear)
    assert isinstance(embedding, nn.Embedding)
    vocab_size = config.vocab_size or embedding.num_embeddings
    if vocab_size > embedding.num_embeddings:
        raise ValueError(f"markers.vocab_size is {vocab_size}, but the LLM has {embedding.num_embeddings} embeddings")
    rows = nn.Embedding.from_pretrained(markers.weight.detach().clone())
    llm.set_input_embeddings(ExtendedEmbedding(embedding, vocab_size, markers))
    llm.set_output_embeddings(ExtendedHead(head, vocab_size, rows))
    return rows
