"""OmniAVSR: encode, compress, project, assemble, and run the LLM, for any task at any trained rate."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from omni_avsr.adapters import AdapterRouter
from omni_avsr.beams import published_beam_stop, shared_prompt
from omni_avsr.compression import compress
from omni_avsr.config import DraftConfig, ModelConfig, PublishedSearch, check_draft
from omni_avsr.drafts import ctc_drafts, draft_ids
from omni_avsr.encoders.build import SpeechEncoder
from omni_avsr.gradients import PartwiseLoss
from omni_avsr.llm import LLM, generation_config
from omni_avsr.projector import ModalityProjector
from omni_avsr.sequence import TextIds, TokenSequence, assemble, embed, with_scored_padding
from omni_avsr.speculative import Written, write_from_drafts
from omni_avsr.types import IGNORE_INDEX, Features, Modality, Rates, StepOutput, Task
from omni_avsr.vocabulary import extend_vocabulary


class OmniAVSR(nn.Module):
    """One model for ASR, VSR and AVSR (Omni-AVSR, section 1).

    ``forward`` does not exist on purpose: training calls ``encode`` once and ``loss`` on its result, inference calls
    ``encode`` once and ``generate`` for each task and pair of rates.
    """

    def __init__(
        self,
        config: ModelConfig,
        llm: LLM,
        router: AdapterRouter,
        encoders: Mapping[Modality, SpeechEncoder],
        projectors: Mapping[Modality, ModalityProjector],
    ) -> None:
        super().__init__()
        self.config = config
        self.encoders = nn.ModuleDict({str(modality): encoder for modality, encoder in encoders.items()})
        self.projectors = nn.ModuleDict({str(modality): part for modality, part in projectors.items()})
        self.markers = nn.Embedding(config.markers.num_rows, llm.hidden_size)
        nn.init.normal_(self.markers.weight, std=llm.embedding_std)
        self.frame_rates = {modality: float(encoder.frame_rate) for modality, encoder in encoders.items()}
        self.llm = llm.model
        self.text = llm
        self.router = router
        prompts = {task: llm.encode(prompt) for task, prompt in config.prompts.items()}
        self.text_ids = TextIds(llm.bos_id, llm.eos_id, prompts)
        in_vocabulary = config.markers.place == "vocabulary"
        self.marker_outputs = extend_vocabulary(llm.model, config.markers, self.markers) if in_vocabulary else None

    @property
    def device(self) -> torch.device:
        return self.markers.weight.device

    def encode(self, inputs: Mapping[Modality, Features]) -> dict[Modality, Features]:
        """Raw inputs to encoder features [B, T, D], once for all tasks and rates. Frozen encoders make no graph.

        What the model has no encoder for is left out.
        """
        features = {}
        for modality, values in inputs.items():
            if modality not in self.encoders:
                continue
            encoder = self.encoders[modality]
            trained = any(parameter.requires_grad for parameter in encoder.parameters())
            with torch.set_grad_enabled(trained and torch.is_grad_enabled()):
                features[modality] = encoder(values.attended() if self.config.padding == "attended" else values)
        return features

    def tokens(self, features: Mapping[Modality, Features], task: Task, rates: Rates) -> dict[Modality, Features]:
        """Compress and project what ``task`` reads: [B, N, H] by modality.

        Raises:
            ValueError: a rate was not trained, or a modality of the task is missing.
        """
        self.config.compression.check(rates, task)
        missing = [modality for modality in task.modalities if modality not in features]
        if missing:
            raise ValueError(f"{task} needs {' and '.join(missing)}, which these clips do not have")
        return {
            modality: self.projectors[modality](
                compress(features[modality], rates.of(modality), self.config.compression), rates.of(modality)
            )
            for modality in task.modalities
        }

    def loss(
        self,
        features: Mapping[Modality, Features],
        texts: Sequence[str],
        rates: Rates,
        task_weights: Mapping[Task, float],
        num_label_tokens: Mapping[Task, int] | None,
        task_features: Mapping[Task, Mapping[Modality, Features]] | None = None,
        score_padding: bool = False,
    ) -> StepOutput:
        """Weighted sum of the tasks' losses (Omni-AVSR 1.3), from one LLM pass per task.

        Gradients are taken task by task on the way, so that one task's graph is in memory; ``backward`` gives the same
        as for a plain sum.

        Args:
            features: of ``encode``.
            texts: transcripts.
            rates: one pair for all tasks of the step.
            task_weights: tasks to train, with their share of the sum.
            num_label_tokens: per task, what the summed token losses are divided by: the scored tokens of the global
                batch, so that micro-batches and ranks add up to its mean. None: by the scored tokens of these clips.
            task_features: what a task reads in place of ``features``; made from them, or without gradient.
            score_padding: whether the eos under the padding counts as a label, and as a position to attend to.
        """
        transcripts = [self.text.encode(text) for text in texts]
        summed = PartwiseLoss([*(part.values for part in features.values()), *self._behind_encoders()], self.device)
        task_losses, num_tokens, num_padded = {}, 0, 0
        # The longest sequences first: what they needed serves the others.
        for task, weight in sorted(task_weights.items(), key=lambda item: -len(item[0].modalities)):
            tokens = self.tokens((task_features or {}).get(task, features), task, rates)
            sequence = assemble(task, tokens, self.text_ids, transcripts).to(self.device)
            if score_padding:
                sequence = with_scored_padding(sequence)
            scored = num_label_tokens[task] if num_label_tokens else int((sequence.labels != IGNORE_INDEX).sum())
            loss = self._cross_entropy(task, tokens, sequence) / scored
            summed.add(weight * loss)
            task_losses[task] = loss.detach()
            num_tokens += int(sequence.attention_mask.sum())
            num_padded += sequence.ids.numel()
        return StepOutput(summed.total(), task_losses, num_tokens, num_padded)

    def _behind_encoders(self) -> Iterator[nn.Parameter]:
        return (parameter for name, parameter in self.named_parameters() if not name.startswith("encoders."))

    def _cross_entropy(self, task: Task, tokens: Mapping[Modality, Features], sequence: TokenSequence) -> Tensor:
        """Summed cross entropy of the labels; logits are made only where labels stand."""
        embeds = embed(sequence, tokens, self.llm.get_input_embeddings(), self.markers)
        with self.router.route(task):
            hidden = self.llm.get_decoder()(
                inputs_embeds=embeds, attention_mask=sequence.attention_mask, use_cache=False
            ).last_hidden_state
        labels = sequence.labels[:, 1:]
        scored = labels != IGNORE_INDEX
        logits = self.llm.get_output_embeddings()(hidden[:, :-1][scored])
        return F.cross_entropy(logits.float(), labels[scored], reduction="sum")

    def generate(
        self,
        features: Mapping[Modality, Features],
        task: Task,
        rates: Rates,
        num_beams: int = 1,
        max_new_tokens: int = 32,
        published: PublishedSearch | None = None,
        draft: DraftConfig | None = None,
    ) -> list[str]:
        """Transcribe a batch, greedily or by beams; deterministic whatever the LLM's shipped settings say.

        published: search as the authors' code does; None as the model's settings say (``config.search``).
        draft: let the LLM correct what CTC heads wrote instead of writing all of it (greedy search in fewer passes).

        Raises:
            ValueError: a rate was not trained, a modality of the task is missing, or there can be no ``draft``: the
                search is not greedy, or no encoder of the task carries a CTC head.
        """
        ids = self.generate_ids(features, task, rates, num_beams, max_new_tokens, published, draft)
        return [self.text.decode(row).strip() for row in ids]

    def generate_ids(
        self,
        features: Mapping[Modality, Features],
        task: Task,
        rates: Rates,
        num_beams: int = 1,
        max_new_tokens: int = 32,
        published: PublishedSearch | None = None,
        draft: DraftConfig | None = None,
    ) -> Tensor:
        """The token ids of ``generate``, [B, longest], eos behind the shorter ones."""
        return self.write(features, task, rates, num_beams, max_new_tokens, published, draft).ids

    @torch.no_grad()
    def write(
        self,
        features: Mapping[Modality, Features],
        task: Task,
        rates: Rates,
        num_beams: int = 1,
        max_new_tokens: int = 32,
        published: PublishedSearch | None = None,
        draft: DraftConfig | None = None,
    ) -> Written:
        """The ids of ``generate_ids``, and what drafts saved."""
        published = published or self.config.search
        check_draft(draft, num_beams, published)
        tokens = self.tokens(features, task, rates)
        sequence = assemble(task, tokens, self.text_ids).to(self.device)
        embeds = embed(sequence, tokens, self.llm.get_input_embeddings(), self.markers)
        mask = sequence.attention_mask
        if draft is not None:
            texts = ctc_drafts(self, features, task)
            with self.router.route(task):
                return write_from_drafts(
                    self.llm,
                    embeds,
                    mask,
                    lambda row, written: draft_ids(self.text, texts[row], written),
                    self.text.eos_id,
                    max_new_tokens,
                    draft.threshold,
                )
        settings = generation_config(self.text, max_new_tokens, num_beams, published)
        with ExitStack() as stack:
            stack.enter_context(self.router.route(task))
            if published is not None:
                stack.enter_context(published_beam_stop(self.llm))
                stack.enter_context(torch.random.fork_rng())
                torch.manual_seed(published.seed)
            cache = shared_prompt(self.llm, embeds, mask, num_beams) if num_beams > 1 else {}
            ids: Tensor = self.llm.generate(  # type: ignore[operator]  # nn.Module's own attribute type hides the method
                inputs_embeds=embeds, attention_mask=mask, generation_config=settings, **cache
            )
        return Written(ids)
