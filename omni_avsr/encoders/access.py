"""The encoders of a whole model, or of one whose LLM was not loaded, by modality."""

from __future__ import annotations

import math

from torch import nn

from omni_avsr.encoders.build import SpeechEncoder
from omni_avsr.encoders.ctc import CTCHead
from omni_avsr.types import Modality


def encoder_of(model: nn.Module, modality: Modality) -> SpeechEncoder:
    """The encoder of a whole model, or of one whose LLM was not loaded (``build.Encoders``). ValueError without one."""
    encoders = model.get_submodule("encoders")
    assert isinstance(encoders, nn.ModuleDict)
    if modality not in encoders:
        raise ValueError(f"the model has no {modality} encoder")
    encoder = encoders[modality]
    assert isinstance(encoder, SpeechEncoder)
    return encoder


def max_seconds(model: nn.Module, modality: Modality) -> float:
    """The longest clip that the model's encoder of ``modality`` takes; infinite when it has none."""
    encoders = model.get_submodule("encoders")
    assert isinstance(encoders, nn.ModuleDict)
    return encoder_of(model, modality).max_seconds if modality in encoders else math.inf


def ctc_parts(model: nn.Module, modality: Modality) -> tuple[SpeechEncoder, CTCHead]:
    """An encoder and its CTC head. ValueError when it carries none."""
    encoder = encoder_of(model, modality)
    if encoder.ctc is None:
        raise ValueError(f"the {modality} encoder carries no CTC head; set its ctc to true")
    return encoder, encoder.ctc
