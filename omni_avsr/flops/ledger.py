"""The ledger of a stage: what its objective runs on a batch, and the FLOPs of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from omni_avsr.compression import num_tokens
from omni_avsr.encoders.access import ctc_parts, encoder_of
from omni_avsr.flops.decoders import (
    CROSSINGS,
    LABELS,
    POSITION_PAIRS,
    POSITIONS,
    llm_tape,
    whisper_decoder_tape,
)
from omni_avsr.flops.encoders import STEPS, EncoderCost, encoder_cost, padded_sizes
from omni_avsr.flops.projectors import TOKENS, ProjectorCost, projector_cost
from omni_avsr.flops.tape import Flops, Tape
from omni_avsr.model import OmniAVSR
from omni_avsr.objectives.ctc import CTCObjective
from omni_avsr.objectives.decoder import DecoderObjective
from omni_avsr.objectives.embed_link import EmbedLinkObjective
from omni_avsr.objectives.frame_targets import AudioCTCFrameTargets, WordFrameTargets
from omni_avsr.objectives.recognition import RecognitionObjective
from omni_avsr.projector import AnyProjector, ModalityProjector
from omni_avsr.sequence import prefix_ids
from omni_avsr.types import Modality, Rates, Task, Workload


class Ledger(Protocol):
    """Counts the forward and backward pass of one micro-batch, not validation, nor the encoding of stored features.

    All that is computed counts, padding too; a batch of one clip has none.
    """

    def count(self, work: Workload) -> Flops: ...


def build_ledger(model: nn.Module, objective: nn.Module, gradient_checkpointing: bool = False) -> Ledger:
    """The ledger of ``objective`` on ``model``, with what is trained in both, and their modes, as they are now.

    Raises:
        ValueError: an encoder or objective is not described here.
    """
    match objective:
        case CTCObjective():
            return _ctc(model, objective)
        case DecoderObjective():
            encoder = encoder_cost(encoder_of(model, Modality.AUDIO))
            tape = whisper_decoder_tape(objective.decoder.decoder, encoder.gradient)
            return DecoderLedger(encoder, tape, len(objective.decoder.prefix_ids))
        case EmbedLinkObjective():
            assert isinstance(model, OmniAVSR)
            return _embed_link(model, objective)
        case RecognitionObjective():
            assert isinstance(model, OmniAVSR)
            return _recognition(model, objective, gradient_checkpointing)
        case _:
            raise ValueError(f"the FLOPs of {type(objective).__name__} are not known; describe it in {__name__}")


@dataclass(frozen=True)
class CTCLedger:
    """One encoder and the heads on it, and what the audio encoder computes where it gives targets.

    num_teachings: passes of the teacher for each reading of the features, one a target.
    """

    modality: Modality
    encoder: EncoderCost
    heads: Tape
    teacher: EncoderCost | None
    teacher_heads: Tape
    num_teachings: int

    def count(self, work: Workload) -> Flops:
        lengths = work.inputs[self.modality]
        heads = self.heads.flops(padded_sizes(self.encoder.num_features(lengths)))
        total = self.encoder.tape.flops(self.encoder.sizes(lengths))
        if self.teacher is not None:
            heard = work.inputs[Modality.AUDIO]
            taught = self.teacher_heads.flops(padded_sizes(self.teacher.num_features(heard)), graph=False)
            for _ in range(self.num_teachings):
                taught += self.teacher.tape.flops(self.teacher.sizes(heard), graph=False)
            heads += taught
        for _ in range(work.num_readings):
            total += heads
        return total


def _ctc(model: nn.Module, objective: CTCObjective) -> CTCLedger:
    speech, head = ctc_parts(model, objective.modality)
    encoder, heads, teacher_heads, teacher = encoder_cost(speech), Tape(), Tape(), None
    heads.matrix("heads", STEPS, head.linear, encoder.gradient)
    taught = [target for target in objective.frames.values() if not isinstance(target, WordFrameTargets)]
    for target in objective.frames.values():
        heads.matrix("heads", STEPS, target.get_submodule("linear"), encoder.gradient)
    for target in taught:
        teacher = encoder_cost(encoder_of(model, Modality.AUDIO))
        if isinstance(target, AudioCTCFrameTargets):
            teacher_heads.matrix("heads", STEPS, ctc_parts(model, Modality.AUDIO)[1].linear, False)
    return CTCLedger(objective.modality, encoder, heads, teacher, teacher_heads, len(taught))


@dataclass(frozen=True)
class DecoderLedger:
    """A Whisper encoder and its decoder."""

    encoder: EncoderCost
    decoder: Tape
    num_prefix: int

    def count(self, work: Workload) -> Flops:
        lengths = work.inputs[Modality.AUDIO]
        features = self.encoder.num_features(lengths)
        # The last label is not fed back.
        rows, positions = len(lengths), self.num_prefix + int(work.num_labels.max()) - 1
        sizes = {
            STEPS: rows * int(features.max()),
            POSITIONS: rows * positions,
            POSITION_PAIRS: rows * positions**2,
            CROSSINGS: rows * positions * int(features.max()),
            LABELS: int(work.num_labels.sum()),
        }
        return self.encoder.tape.flops(self.encoder.sizes(lengths)) + self.decoder.flops(sizes)


@dataclass(frozen=True)
class FrontEnd:
    """What stands before the LLM: encoders, and by rate projectors."""

    encoders: Mapping[Modality, EncoderCost]
    projectors: Mapping[Modality, Mapping[int, ProjectorCost]]
    num_tokens: Callable[[Tensor, int], Tensor]
    attends_padding: bool

    def encode(self, work: Workload) -> tuple[Flops, dict[Modality, Tensor]]:
        """What the encoders cost, and the lengths of the features."""
        if work.features:
            return Flops(), dict(work.features)
        total, features = Flops(), {}
        for modality, lengths in work.inputs.items():
            if modality in self.encoders:
                encoder = self.encoders[modality]
                seen = lengths.max().expand(len(lengths)) if self.attends_padding else lengths
                total += encoder.tape.flops(encoder.sizes(seen))
                features[modality] = encoder.num_features(seen)
        return total, features

    def project(self, modality: Modality, features: Tensor, rates: Rates) -> tuple[Flops, Tensor]:
        """What a projector costs, and how many tokens each clip has."""
        rate = rates.of(modality)
        return self.projectors[modality][rate].of(self.num_tokens(features, rate))


def _front_end(model: OmniAVSR) -> FrontEnd:
    compression, encoders = model.config.compression, {m: encoder_cost(encoder_of(model, m)) for m in model.frame_rates}
    return FrontEnd(
        encoders,
        {
            modality: {
                rate: projector_cost(_of_rate(model, modality, rate), encoder.gradient)
                for rate in compression.rates_of(modality)
            }
            for modality, encoder in encoders.items()
        },
        lambda lengths, rate: num_tokens(lengths, rate, compression),
        model.config.padding == "attended",
    )


def _of_rate(model: OmniAVSR, modality: Modality, rate: int) -> AnyProjector:
    projector = model.projectors[modality]
    assert isinstance(projector, ModalityProjector)
    return projector.of_rate(rate)


@dataclass(frozen=True)
class EmbedLinkLedger:
    """Encoders and projectors, each once; by modality the CTC head that says when words are spoken; the contrast.

    contrast: for each token, with padding none. Words that were found in an earlier step are counted all the same.
    """

    front_end: FrontEnd
    heads: Mapping[Modality, Tape]
    contrast: Tape

    def count(self, work: Workload) -> Flops:
        total, features = self.front_end.encode(work)
        for rates in work.passes:
            for modality, lengths in features.items():
                projected, tokens = self.front_end.project(modality, lengths, rates)
                total += projected + self.contrast.flops({TOKENS: int(tokens.sum())})
                if modality in self.heads:
                    total += self.heads[modality].flops(padded_sizes(lengths), graph=False)
        return total


def _embed_link(model: OmniAVSR, objective: EmbedLinkObjective) -> EmbedLinkLedger:
    heads, contrast = dict[Modality, Tape](), Tape()
    if objective.config.targets == "heard":
        for modality in model.frame_rates:
            heads[modality] = Tape()
            heads[modality].matrix("heads", STEPS, ctc_parts(model, modality)[1].linear, False)
    if objective.config.contrast_weight:
        size = model.text.hidden_size * model.text.vocab_size
        contrast.product("logits", TOKENS, 2.0 * size, gradient=True, trained=False)
    return EmbedLinkLedger(_front_end(model), heads, contrast)


@dataclass(frozen=True)
class RecognitionLedger:
    """Encoders once; for each task and pair of rates its projectors, a pass of the LLM, and logits where labels are.

    num_around: positions of a clip's row that are neither audio, video nor labels.
    """

    front_end: FrontEnd
    llm: Mapping[Task, Tape]
    num_around: Mapping[Task, int]
    scores_padding: bool

    def count(self, work: Workload) -> Flops:
        total, features = self.front_end.encode(work)
        for rates, tasks in work.passes.items():
            for task in tasks:
                total += self._pass(task, rates, features, work.num_labels)
        return total

    def _pass(self, task: Task, rates: Rates, features: Mapping[Modality, Tensor], num_labels: Tensor) -> Flops:
        total, positions = Flops(), self.num_around[task] + num_labels
        for modality in task.modalities:
            flops, tokens = self.front_end.project(modality, features[modality], rates)
            total, positions = total + flops, positions + tokens
        padding = positions.max() - positions if self.scores_padding else torch.zeros_like(positions)
        labels = int((num_labels + padding).sum())
        return total + self.llm[task].flops({**padded_sizes(positions), LABELS: labels})


def _recognition(model: OmniAVSR, objective: RecognitionObjective, gradient_checkpointing: bool) -> RecognitionLedger:
    front_end, llm, num_around = _front_end(model), {}, {}
    text = [model.markers, model.llm.get_input_embeddings()]
    for task in objective.config.task_weights:
        trained = [*text, *(model.projectors[modality] for modality in task.modalities)]
        gradient = any(value.requires_grad for module in trained for value in module.parameters())
        gradient = gradient or any(front_end.encoders[modality].gradient for modality in task.modalities)
        llm[task] = llm_tape(model, task, gradient, gradient_checkpointing)
        num_around[task] = len(prefix_ids(task, dict.fromkeys(task.modalities, 0), model.text_ids))
    return RecognitionLedger(front_end, llm, num_around, objective.config.score_padding)
