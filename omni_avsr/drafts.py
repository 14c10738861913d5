"""Drafts of transcripts: what CTC heads read in a clip, and how a draft goes on behind what the LLM corrected."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from omni_avsr.encoders.access import ctc_parts, encoder_of
from omni_avsr.encoders.ctc import decode_ids
from omni_avsr.llm import LLM
from omni_avsr.types import Features, Modality, Task


def drafting_modalities(model: nn.Module, task: Task) -> list[Modality]:
    """The modalities of ``task`` whose encoders carry a CTC head. ValueError when none does."""
    found = [modality for modality in task.modalities if encoder_of(model, modality).ctc is not None]
    if not found:
        raise ValueError(
            f"no draft for {task}: no {' or '.join(task.modalities)} encoder of this model carries a CTC head (its ctc "
            "is false); decode without draft"
        )
    return found


@torch.no_grad()
def ctc_drafts(model: nn.Module, features: Mapping[Modality, Features], task: Task) -> list[str]:
    """The greedy CTC transcript of each clip; of AVSR's two heads that of the surer one.

    How sure a head is: the mean log probability of its best labels, blanks included.

    Args:
        features: of the encoders [B, T, D], uncompressed.
    """
    read = []
    for modality in drafting_modalities(model, task):
        log_probs = ctc_parts(model, modality)[1](features[modality])
        surest, labels = log_probs.values.max(-1)
        sureness = (surest * log_probs.mask()).sum(-1) / log_probs.lengths
        lengths = log_probs.lengths.tolist()
        texts = [decode_ids(row[:length]) for row, length in zip(labels.tolist(), lengths, strict=True)]
        read.append(zip(sureness.tolist(), texts, strict=True))
    return [max(clip)[1] for clip in zip(*read, strict=True)]


def draft_ids(llm: LLM, text: str, written: Sequence[int]) -> list[int]:
    """The ids that ``text`` has behind ``written``, which may have errors of it corrected; eos is the last one.

    Words go on with the tokens that they have in the whole text, wherever those written so far are the whole text's.
    """
    if not written:
        return [*llm.encode(text), llm.eos_id]
    said = llm.decode(list(written))
    rest = "".join(f" {word}" for word in following(said.split(), text.split()))
    if said.endswith(" "):
        rest = rest.lstrip()
    whole = llm.encode(said + rest)
    fits = whole[: len(written)] == list(written)
    return [*(whole[len(written) :] if fits else llm.encode(rest)), llm.eos_id]


def following(said: Sequence[str], draft: Sequence[str]) -> Sequence[str]:
    """The words of ``draft`` behind its beginning that is nearest to ``said`` in edit distance.

    Of beginnings equally near, the longest: a wrong word is more often replaced than left out.
    """
    costs = list(range(len(draft) + 1))
    for number, one in enumerate(said, start=1):
        before, costs[0] = costs[0], number
        for place, other in enumerate(draft, start=1):
            before, costs[place] = costs[place], min(before + (one != other), costs[place] + 1, costs[place - 1] + 1)
    return draft[max(place for place, cost in enumerate(costs) if cost == min(costs)) :]
