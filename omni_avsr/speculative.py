"""Speculative decoding: an LLM reads a draft in one pass, keeps what it would have written, and corrects the rest."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from omni_avsr.llm import empty_cache, positions

Propose = Callable[[int, Sequence[int]], list[int]]
"""(row, ids that it wrote so far) -> the ids that it may write next; eos at most as the last one."""


@dataclass(frozen=True)
class DraftCounts:
    """What one clip took.

    passes: of the LLM until the text was complete, the one over the prompt included (greedily: one for each token).
    drafted: tokens that it was shown; accepted: those of them that stand in the text.
    """

    passes: int
    drafted: int
    accepted: int


@dataclass(frozen=True)
class Written:
    """ids: [B, longest], eos behind the shorter ones. counts: of each clip; empty where nothing was drafted."""

    ids: Tensor
    counts: tuple[DraftCounts, ...] = ()


@dataclass
class _Row:
    """A clip that is being written."""

    number: int
    draft: list[int] = field(default_factory=list)
    written: list[int] = field(default_factory=list)
    passes: int = 0
    drafted: int = 0
    accepted: int = 0


def write_from_drafts(
    llm: PreTrainedModel,
    embeds: Tensor,
    attention_mask: Tensor,
    propose: Propose,
    eos_id: int,
    max_new_tokens: int,
    threshold: float | None = None,
) -> Written:
    """Write a batch as greedy search does, but with a pass for each stretch of the drafts that the LLM agrees with.

    A pass reads what is new in the text and the draft behind it. The draft is kept up to its first token that the LLM
    would not write; there the LLM's own token stands, and ``propose`` drafts on from it. The first pass reads the
    prompt as well. Rejected tokens leave the cache; those that stay there because another clip kept more are masked.
    Clips that are complete leave the batch.

    Args:
        llm: one whose layers all attend to the whole text.
        embeds: prompts [B, L, H], padded at the left.
        attention_mask: [B, L], 1 where a position counts.
        threshold: a drafted token also stands where its probability is at least ``threshold`` times the best one's.
            None: only where it is the best one, so the ids are those of greedy search but for rounding.

    Raises:
        ValueError: the LLM has layers with a sliding window or with states, which cannot take back what they have read.
    """
    rows = active = [_Row(number) for number in range(len(embeds))]
    embedding, argument = llm.get_input_embeddings(), empty_cache(llm)
    [cache] = argument.values()
    if kinds := {type(layer).__name__ for layer in cache.layers if type(layer) is not DynamicLayer}:
        raise ValueError(
            f"no draft for {type(llm).__name__}: its cache cannot take back rejected tokens ({', '.join(kinds)}); "
            "decode without draft"
        )
    new, mask = embeds, attention_mask
    while active:
        for row in active:
            # The pass also gives the token behind a draft that is kept as a whole.
            row.draft = propose(row.number, row.written)[: max_new_tokens - len(row.written) - 1]
        draft, is_draft = _padded([row.draft for row in active], eos_id, embeds.device)
        mask = torch.cat([mask, is_draft.to(mask.dtype)], dim=1)
        new = torch.cat([new, embedding(draft)], dim=1)
        logits = llm(
            inputs_embeds=new,
            attention_mask=mask,
            position_ids=positions(mask)[:, -new.shape[1] :],
            logits_to_keep=draft.shape[1] + 1,
            use_cache=True,
            **argument,
        ).logits.float()
        best = logits.argmax(-1)
        num_accepted = (_agrees(logits, best, draft, threshold) & is_draft).cumprod(-1).sum(-1)
        own = best.gather(-1, num_accepted[:, None])
        for row, count, token in zip(active, num_accepted.tolist(), own[:, 0].tolist(), strict=True):
            _extend(row, count, token, eos_id)
        places = [
            place for place, row in enumerate(active) if row.written[-1] != eos_id and len(row.written) < max_new_tokens
        ]
        active = [active[place] for place in places]
        if active:
            kept = torch.tensor(places, device=embeds.device)
            mask = _take_back(cache, mask, kept, num_accepted[kept], draft.shape[1])
            mask = torch.cat([mask, mask.new_ones(len(active), 1)], dim=1)
            new = embedding(own[kept])
    ids = pad_sequence([torch.tensor(row.written) for row in rows], batch_first=True, padding_value=eos_id)
    return Written(ids.to(embeds.device), tuple(DraftCounts(row.passes, row.drafted, row.accepted) for row in rows))


def _take_back(cache: DynamicCache, mask: Tensor, kept: Tensor, num_accepted: Tensor, width: int) -> Tensor:
    """Leave in ``cache`` the rows ``kept``, and of their last ``width`` positions those accepted, of any row.

    Returns:
        the attention mask of what is left, without what a row itself does not accept.
    """
    num_rejected = width - int(num_accepted.max())
    cache.batch_select_indices(kept)
    cache.crop(-num_rejected)
    accepted = _first(num_accepted, width - num_rejected).to(mask.dtype)
    return torch.cat([mask[kept, : mask.shape[1] - width], accepted], dim=1)


def _agrees(logits: Tensor, best: Tensor, draft: Tensor, threshold: float | None) -> Tensor:
    """Whether each token of ``draft`` [B, N] may stand, by the logits [B, N + 1, vocabulary] of the places before."""
    if threshold is None:
        return draft == best[:, :-1]
    before = logits[:, :-1]
    drafted = before.gather(-1, draft[..., None])[..., 0]
    return drafted >= before.amax(-1) + math.log(threshold)


def _extend(row: _Row, num_accepted: int, own: int, eos_id: int) -> None:
    """Write what of the draft stands, and behind it, where the text goes on, the LLM's own token."""
    accepted = row.draft[:num_accepted]
    row.passes += 1
    row.drafted += len(row.draft)
    row.accepted += len(accepted)
    row.written += accepted
    if eos_id not in accepted:
        row.written.append(own)


def _padded(rows: Sequence[Sequence[int]], pad_id: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Rows of unequal length as ids [B, longest], and [B, longest] bool, true where they are real."""
    lengths = torch.tensor([len(row) for row in rows], device=device)
    ids = pad_sequence(
        [torch.tensor(row, dtype=torch.int64) for row in rows], batch_first=True, padding_value=pad_id
    ).to(device)
    return ids, _first(lengths, ids.shape[1])


def _first(counts: Tensor, width: int) -> Tensor:
    """[B, width] bool: the first so many of each row."""
    return torch.arange(width, device=counts.device) < counts[:, None]
