"""Drafts of transcripts: what CTC heads read in a clip, and how a draft goes on behind what the LLM corrected."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

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
def ctc_texts(model: nn.Module, features: Mapping[Modality, Features], task: Task) -> list[list[str]]:
    """Greedy CTC transcripts of each clip by the encoders of ``task``, the surest first.

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
        read.append(list(zip(sureness.tolist(), texts, strict=True)))
    return [[text for _, text in sorted(clip, key=lambda entry: -entry[0])] for clip in zip(*read, strict=True)]


def draft_ids(llm: LLM, texts: Sequence[str], written: Sequence[int]) -> list[int]:
    """The ids that follow ``written`` if the text is to be one of ``texts``, eos included.

    The text that agrees best with what is written goes on behind it. Its words keep the tokens that they have in
    the whole text wherever the tokens written so far do.
    """
    if not written:
        return [*llm.encode(texts[0]), llm.eos_id]
    said = llm.decode(list(written))
    text = min(texts, key=lambda text: align(said.split(), text.split())[0])
    rest = ""
    for rest in continuations(said, text):
        ids = llm.encode(said + rest)
        if ids[: len(written)] == list(written):
            return [*ids[len(written) :], llm.eos_id]
    return [*llm.encode(rest), llm.eos_id]


def continuations(said: str, text: str) -> Iterator[str]:
    """What of ``text`` may follow ``said``, which has the errors of ``text`` corrected; the last one always fits.

    First, where the last word said looks like the beginning of a corrected word (kat of katherine for catherine), the
    end of that word with all that follows; then the words behind it.
    """
    words = text.split()
    _, end = align(said.split(), words)
    following = "".join(f" {word}" for word in words[end:])
    if said.split() and end:
        last, drafted = said.split()[-1], words[end - 1]
        cost, inner = align(last, drafted)
        if inner < len(drafted) and 2 * cost < len(last):
            yield drafted[inner:] + following
    yield following if said and not said[-1].isspace() else following.lstrip()


def align(said: Sequence[str], draft: Sequence[str]) -> tuple[int, int]:
    """The edit distance of ``said`` to the beginning of ``draft`` that is nearest to it, and where that one ends.

    Of beginnings equally near, the longest: a wrong word is more often replaced than left out.
    """
    costs = list(range(len(draft) + 1))
    for number, one in enumerate(said, start=1):
        before, costs[0] = costs[0], number
        for place, other in enumerate(draft, start=1):
            before, costs[place] = costs[place], min(before + (one != other), costs[place] + 1, costs[place - 1] + 1)
    cost = min(costs)
    return cost, max(place for place, found in enumerate(costs) if found == cost)
