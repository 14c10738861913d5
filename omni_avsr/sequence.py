"""The one place where prompt, audio, video and transcript become one sequence.

Layout of a row: ``[bos] [<audio> A*n </audio>] [<video> V*m </video>] prompt [transcript eos]``. It is assembled from
ids, so it needs no LLM: text keeps the tokenizer's ids, and what is no text (markers, and slots that features fill)
takes ids from ``SLOT_BASE`` on, outside of any vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Literal

import torch
from torch import Tensor, nn

from omni_avsr.types import IGNORE_INDEX, Features, Modality, Task

SLOT_BASE = 1 << 30


class Slot(IntEnum):
    """Positions that are no text: four trained markers, and places for audio and video tokens."""

    AUDIO_START = SLOT_BASE
    AUDIO_END = SLOT_BASE + 1
    VIDEO_START = SLOT_BASE + 2
    VIDEO_END = SLOT_BASE + 3
    AUDIO = SLOT_BASE + 4
    VIDEO = SLOT_BASE + 5


NUM_MARKERS = 4
_BRACKETS = {
    Modality.AUDIO: (Slot.AUDIO_START, Slot.AUDIO, Slot.AUDIO_END),
    Modality.VIDEO: (Slot.VIDEO_START, Slot.VIDEO, Slot.VIDEO_END),
}


@dataclass(frozen=True)
class TextIds:
    """The tokenizer's part of the layout. ``bos`` is None for families that use none (Qwen2.5)."""

    bos: int | None
    eos: int
    prompts: Mapping[Task, Sequence[int]]


@dataclass(frozen=True)
class TokenSequence:
    """Padded rows of ids.

    ids: [B, L] int64; eos stands under the padding.
    attention_mask: [B, L] int64, 1 where a position is real.
    labels: [B, L] int64; the transcript and eos, IGNORE_INDEX elsewhere. Not shifted.
    """

    ids: Tensor
    attention_mask: Tensor
    labels: Tensor

    def to(self, device: torch.device) -> TokenSequence:
        return TokenSequence(self.ids.to(device), self.attention_mask.to(device), self.labels.to(device))


def prefix_ids(task: Task, num_tokens: Mapping[Modality, int], text: TextIds) -> list[int]:
    """One row up to the end of the prompt: what generation starts from."""
    ids = [] if text.bos is None else [text.bos]
    for modality in task.modalities:
        start, slot, end = _BRACKETS[modality]
        ids += [start, *[slot] * num_tokens[modality], end]
    return [*map(int, ids), *text.prompts[task]]


def assemble(
    task: Task,
    tokens: Mapping[Modality, Features],
    text: TextIds,
    transcripts: Sequence[Sequence[int]] | None = None,
) -> TokenSequence:
    """Assemble a batch.

    Args:
        task: which modalities and which prompt.
        tokens: compressed, projected features by modality; only their lengths are read.
        text: special ids and prompts.
        transcripts: token ids of each clip's transcript for training (padded at the right), or None for generation
            (padded at the left). The ids for generation are a prefix of those for training.
    """
    lengths = {modality: tokens[modality].lengths.tolist() for modality in task.modalities}
    num_rows = len(next(iter(lengths.values())))
    prefixes = [prefix_ids(task, {m: lengths[m][row] for m in lengths}, text) for row in range(num_rows)]
    if transcripts is None:
        return _pad([(ids, 0) for ids in prefixes], text.eos, "left")
    rows = [
        ([*ids, *transcript, text.eos], len(transcript) + 1)
        for ids, transcript in zip(prefixes, transcripts, strict=True)
    ]
    return _pad(rows, text.eos, "right")


def with_scored_padding(sequence: TokenSequence) -> TokenSequence:
    """The same rows with the eos under their padding scored and attended, as published for Qwen (Omni-AVSR 1.8 D7)."""
    labels = sequence.labels.where(sequence.attention_mask.bool(), sequence.ids)
    return TokenSequence(sequence.ids, torch.ones_like(sequence.attention_mask), labels)


def _pad(rows: list[tuple[list[int], int]], pad_id: int, side: Literal["left", "right"]) -> TokenSequence:
    """Pad rows of (ids, number of scored ids at the end)."""
    longest = max(len(ids) for ids, _ in rows)
    ids = torch.full((len(rows), longest), pad_id, dtype=torch.int64)
    mask = torch.zeros(len(rows), longest, dtype=torch.int64)
    labels = torch.full((len(rows), longest), IGNORE_INDEX, dtype=torch.int64)
    for row, (values, num_scored) in enumerate(rows):
        start = longest - len(values) if side == "left" else 0
        stop = start + len(values)
        ids[row, start:stop] = torch.tensor(values)
        mask[row, start:stop] = 1
        labels[row, stop - num_scored : stop] = ids[row, stop - num_scored : stop]
    return TokenSequence(ids, mask, labels)


def embed(
    sequence: TokenSequence, tokens: Mapping[Modality, Features], embedding: nn.Module, markers: nn.Embedding
) -> Tensor:
    """Embed ids, markers and modality tokens: [B, L, H] in the dtype of the LLM's embeddings.

    The last four rows of ``markers`` are those of ``Slot``.

    Raises:
        ValueError: the number of slots and of tokens differ.
    """
    ids = sequence.ids
    is_text = ids < SLOT_BASE
    embeds = embedding(ids.where(is_text, 0))
    is_marker = (ids >= SLOT_BASE) & (ids < SLOT_BASE + NUM_MARKERS)
    # Where the published code has a row for padding, it comes before the markers.
    first = markers.num_embeddings - NUM_MARKERS
    marker_rows = markers((ids - SLOT_BASE).clamp(0, NUM_MARKERS - 1) + first).to(embeds.dtype)
    embeds = torch.where(is_marker[..., None], marker_rows, embeds)
    for modality, (_, slot, _) in _BRACKETS.items():
        is_slot = ids == slot
        num_slots = int(is_slot.sum())
        if not num_slots:
            continue
        filled = tokens[modality].values[tokens[modality].mask()]
        if len(filled) != num_slots:
            raise ValueError(f"{num_slots} {modality} slots for {len(filled)} tokens")
        embeds = embeds.masked_scatter(is_slot[..., None], filled.to(embeds.dtype))
    return embeds
