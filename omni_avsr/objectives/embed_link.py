"""Train projectors to meet the LLM's own embeddings of the words, without running the LLM."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from omni_avsr.compression import compress, draw_rates
from omni_avsr.model import OmniAVSR
from omni_avsr.objectives.base import LabelUnit, ObjectiveOutput
from omni_avsr.types import Batch, Clip, Features, Workload, lengths_of


class EmbedLinkObjective(nn.Module):
    """Mean squared error and cosine distance between projected tokens and the embeddings of what is said (EmbedLink).

    Tiny-Align (section 2) compares a fixed number of pooled vectors; here every token has the word spoken in its middle
    as its target, which is ours and needs word times. Tokens in silence, and clips without word times, are not scored.
    One audio and one video rate are drawn per step, as when the LLM is run.
    """

    label_unit: LabelUnit = "tokens"

    def __init__(self, cosine_weight: float, seed: int) -> None:
        """cosine_weight: of the cosine distance; the squared error counts in variances of the LLM's embeddings."""
        super().__init__()
        self.cosine_weight, self.seed = cosine_weight, seed

    def forward(self, model: nn.Module, batch: Batch) -> ObjectiveOutput:
        assert isinstance(model, OmniAVSR)
        compression = model.config.compression
        rates = draw_rates(compression, self.seed, batch.step)
        # A modality that this batch lacks counts zero, so that all ranks sum up the same figures.
        losses = {f"{modality}_link": torch.zeros((), device=model.device) for modality in model.encoders}
        num_tokens, num_padded = 0, 0
        for modality, features in (batch.features or model.encode(batch.inputs)).items():
            rate = rates.of(modality)
            tokens = model.projectors[modality](compress(features, rate, compression), rate)
            targets, scored = embedding_targets(model, batch.clips, tokens, model.frame_rates[modality] / rate)
            distances = self._distances(tokens.values.float(), targets, model.text.embedding_std)
            of_clips = (distances * scored).sum(1) / scored.sum(1).clamp(min=1)
            losses[f"{modality}_link"] = of_clips.sum() / batch.num_clips
            num_tokens += int(tokens.lengths.sum())
            num_padded += tokens.mask().numel()
        figures = {name: loss.detach() for name, loss in losses.items()}
        num_labels = torch.tensor([self.num_label_tokens(model, text) for text in batch.texts])
        work = Workload(lengths_of(batch.inputs), num_labels, lengths_of(batch.features), {rates: ()})
        return ObjectiveOutput(torch.stack(list(losses.values())).sum(), figures, num_tokens, num_padded, work)

    def _distances(self, tokens: Tensor, targets: Tensor, embedding_std: float) -> Tensor:
        """[B, N, H] twice -> [B, N]."""
        squared = (tokens - targets).square().mean(-1) / embedding_std**2
        return squared + self.cosine_weight * (1 - F.cosine_similarity(tokens, targets, dim=-1))

    def num_label_tokens(self, model: nn.Module, text: str) -> int:
        assert isinstance(model, OmniAVSR)
        return len(model.text.encode(text))

    def transcribe(self, model: nn.Module, batch: Batch) -> dict[str, list[str]]:
        return {}


@torch.no_grad()
def embedding_targets(
    model: OmniAVSR, clips: Sequence[Clip], tokens: Features, tokens_per_second: float
) -> tuple[Tensor, Tensor]:
    """What each token should be.

    Returns:
        [B, N, H], the mean embedding of the pieces of the word that is spoken in the token's middle, and [B, N], where
        there is one.
    """
    embeddings, device = model.llm.get_input_embeddings(), model.device
    targets = torch.zeros(*tokens.values.shape[:2], model.text.hidden_size, device=device)
    scored = torch.zeros(tokens.values.shape[:2], dtype=torch.bool, device=device)
    for row, (clip, length) in enumerate(zip(clips, tokens.lengths.tolist(), strict=True)):
        middles = (torch.arange(length) + 0.5) / tokens_per_second
        for word in clip.words:
            places = ((middles >= word.start) & (middles < word.end)).nonzero()[:, 0]
            # With its space: most words of a transcript follow another one.
            ids = torch.tensor(model.text.encode(f" {word.text}"), device=device)
            targets[row, places] = embeddings(ids).float().mean(0)
            scored[row, places] = True
    return targets, scored
