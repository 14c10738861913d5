"""One call of a model, and how long what passes through it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from omni_avsr.compression import num_tokens
from omni_avsr.encoders.access import encoder_of, max_seconds
from omni_avsr.features import SAMPLE_RATE, VIDEO_FPS
from omni_avsr.flops.encoders import encoder_cost
from omni_avsr.model import OmniAVSR
from omni_avsr.projector import ModalityProjector
from omni_avsr.sequence import prefix_ids
from omni_avsr.types import Modality, Rates, Task

PER_SECOND = {Modality.AUDIO: SAMPLE_RATE, Modality.VIDEO: VIDEO_FPS}


@dataclass(frozen=True)
class Request:
    """Clips that are transcribed at once, all of ``seconds``, and how.

    new_tokens: that are written for each of them.
    """

    task: Task
    rates: Rates
    seconds: float
    new_tokens: int = 32
    num_beams: int = 1
    batch_size: int = 1


@dataclass(frozen=True)
class Lengths:
    """What a request comes to.

    inputs: [B] samples or frames of each clip. features: of the longest clip. prompt: positions of the LLM before the
    first new token.
    """

    inputs: Mapping[Modality, Tensor]
    features: Mapping[Modality, int]
    prompt: int


def lengths_in(model: OmniAVSR, request: Request) -> Lengths:
    """The lengths of a request in a model, which may have no weights.

    Raises:
        ValueError: the model was not trained for the rates or the task, or takes no clip of that length.
    """
    compression = model.config.compression
    compression.check(request.rates, request.task)
    inputs, features, tokens = {}, {}, {}
    for modality in request.task.modalities:
        longest = max_seconds(model, modality)
        if request.seconds > longest:
            raise ValueError(f"the {modality} encoder takes clips of at most {longest:g} s, not {request.seconds:g} s")
        samples = max(1, round(request.seconds * PER_SECOND[modality]))
        inputs[modality] = torch.full((request.batch_size,), samples)
        found = encoder_cost(encoder_of(model, modality)).num_features(inputs[modality])
        features[modality] = int(found.max())
        tokens[modality] = num_tokens_of(model, modality, request.rates.of(modality), features[modality])
    return Lengths(inputs, features, len(prefix_ids(request.task, tokens, model.text_ids)))


def num_tokens_of(model: OmniAVSR, modality: Modality, rate: int, length: int) -> int:
    """Tokens that a projector makes of so many features of one clip."""
    projector = model.projectors[modality]
    assert isinstance(projector, ModalityProjector)
    compressed = num_tokens(torch.tensor([length]), rate, model.config.compression)
    return int(projector.of_rate(rate).num_tokens(compressed))
