"""Train projectors to meet the LLM's own embeddings of the words, without running the LLM."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from omni_avsr.compression import compress, draw_rates
from omni_avsr.encoders.access import ctc_parts
from omni_avsr.model import OmniAVSR
from omni_avsr.objectives.alignment import Alignment, align_pooled, align_words, spoken_words
from omni_avsr.objectives.base import LabelUnit, ObjectiveOutput
from omni_avsr.stages import EmbedLinkObjectiveConfig
from omni_avsr.types import Batch, Clip, Features, Modality, Rates, Word, Workload, lengths_of

_SLAB = 1 << 14
"""Rows of a table that are made float32 at once."""


class EmbedLinkObjective(nn.Module):
    """Squared error and cosine distance between projected tokens and the embeddings of what is said (EmbedLink).

    Tiny-Align (section 2) compares a fixed number of pooled vectors. With word times, or those that a CTC head finds,
    every token has the word spoken in its middle as its target, which is ours; tokens in silence are then not scored.
    Ours too is the contrast with all other embeddings of the LLM. One audio and one video rate are drawn per step, as
    when the LLM is run.
    """

    label_unit: LabelUnit = "tokens"

    def __init__(self, config: EmbedLinkObjectiveConfig, seed: int) -> None:
        super().__init__()
        self.config, self.seed = config, seed
        self.heard: dict[tuple[str, Modality], tuple[Word, ...]] = {}
        """Words with their times by clip: encoders are frozen in such a stage, so once found they stay."""
        self.norms: Tensor | None = None
        """Of the LLM's embeddings, once they were asked for."""

    def forward(self, model: nn.Module, batch: Batch) -> ObjectiveOutput:
        assert isinstance(model, OmniAVSR)
        rates = draw_rates(model.config.compression, self.seed, batch.step)
        # A modality that this batch lacks counts zero, so that all ranks sum up the same figures.
        losses = {f"{modality}_link": torch.zeros((), device=model.device) for modality in model.encoders}
        num_tokens, num_padded = 0, 0
        features = batch.features or model.encode(batch.inputs)
        for modality, tokens in project(model, features, rates).items():
            alignments = self.alignments(model, batch.clips, modality, features[modality], tokens, rates)
            distances = [
                self._distances(model, tokens.values[row, :length].float(), alignment)
                for row, (length, alignment) in enumerate(zip(tokens.lengths.tolist(), alignments, strict=True))
            ]
            losses[f"{modality}_link"] = torch.stack(distances).sum() / batch.num_clips
            num_tokens += int(tokens.lengths.sum())
            num_padded += tokens.mask().numel()
        figures = {name: loss.detach() for name, loss in losses.items()}
        num_labels = torch.tensor([self.num_label_tokens(model, text) for text in batch.texts])
        work = Workload(lengths_of(batch.inputs), num_labels, lengths_of(batch.features), {rates: ()})
        return ObjectiveOutput(torch.stack(list(losses.values())).sum(), figures, num_tokens, num_padded, work)

    def alignments(
        self,
        model: OmniAVSR,
        clips: Sequence[Clip],
        modality: Modality,
        features: Features,
        tokens: Features,
        rates: Rates,
    ) -> list[Alignment]:
        """What each token of each clip should be."""
        lengths = tokens.lengths.tolist()
        if self.config.targets == "pooled":
            return [align_pooled(model.text, clip.text, n) for clip, n in zip(clips, lengths, strict=True)]
        words = [clip.words for clip in clips]
        if self.config.targets == "heard":
            words = self._heard(model, clips, modality, features)
        per_second = model.frame_rates[modality] / rates.of(modality)
        return [align_words(model.text, own, n, per_second) for own, n in zip(words, lengths, strict=True)]

    @torch.no_grad()
    def _heard(
        self, model: OmniAVSR, clips: Sequence[Clip], modality: Modality, features: Features
    ) -> list[tuple[Word, ...]]:
        if any((clip.id, modality) not in self.heard for clip in clips):
            encoder, head = ctc_parts(model, modality)
            log_probs = head(features)
            for row, (clip, length) in enumerate(zip(clips, features.lengths.tolist(), strict=True)):
                own = log_probs.values[row, :length]
                self.heard[clip.id, modality] = spoken_words(own, clip.text, float(encoder.frame_rate))
        return [self.heard[clip.id, modality] for clip in clips]

    def _distances(self, model: OmniAVSR, tokens: Tensor, alignment: Alignment) -> Tensor:
        """Mean over the tokens [N, H] of one clip that have a target; 0 where none has."""
        ids, weights, config = alignment.ids.to(tokens.device), alignment.weights.to(tokens.device), self.config
        scored = weights.sum(1) > 0
        with torch.no_grad():
            embeddings: Tensor = model.llm.get_input_embeddings()(ids)
            targets = (weights[..., None] * embeddings.float()).sum(1)
        distances = (tokens - targets).square().mean(-1) / model.text.embedding_std**2
        distances = distances + config.cosine_weight * (1 - F.cosine_similarity(tokens, targets, dim=-1))
        if config.contrast_weight:
            log_probs = F.log_softmax(self.similarities(model, tokens) / config.temperature, dim=-1)[:, ids]
            distances = distances - config.contrast_weight * (weights * log_probs).sum(1)
        return (distances * scored).sum() / scored.sum().clamp(min=1)

    def similarities(self, model: OmniAVSR, tokens: Tensor) -> Tensor:
        """Cosine of each token [N, H] and each of the LLM's embeddings: [N, vocabulary]."""
        table = model.llm.get_input_embeddings().weight
        assert isinstance(table, Tensor)
        if self.norms is None:
            slabs = [torch.linalg.vector_norm(slab.float(), dim=-1) for slab in table.split(_SLAB)]
            self.norms = torch.cat(slabs).clamp(min=torch.finfo(torch.float32).eps)
        return F.linear(F.normalize(tokens, dim=-1).to(table.dtype), table).float() / self.norms

    def num_label_tokens(self, model: nn.Module, text: str) -> int:
        assert isinstance(model, OmniAVSR)
        return len(model.text.encode(text))

    @torch.no_grad()
    def transcribe(self, model: nn.Module, batch: Batch) -> dict[str, list[str]]:
        """What the nearest embedding to each token reads, repeats once; the LLM does not run."""
        assert isinstance(model, OmniAVSR)
        rates = Rates(min(model.config.compression.audio_rates), min(model.config.compression.video_rates))
        features = batch.features or model.encode(batch.inputs)
        texts = {}
        for modality, tokens in project(model, features, rates).items():
            rows = zip(tokens.values, tokens.lengths.tolist(), strict=True)
            nearest = [self.similarities(model, row[:length].float()).argmax(-1) for row, length in rows]
            texts[f"nearest_{modality}"] = [model.text.decode(ids.unique_consecutive()).strip() for ids in nearest]
        return texts


def project(model: OmniAVSR, features: Mapping[Modality, Features], rates: Rates) -> dict[Modality, Features]:
    """Tokens [B, N, H] of every modality that is there."""
    compression = model.config.compression
    return {
        modality: model.projectors[modality](compress(values, rates.of(modality), compression), rates.of(modality))
        for modality, values in features.items()
    }
