"""What beam search has beside transformers' own: one pass over a prompt for all its beams, and the published stop rule.

transformers runs a prompt once for each beam, although it is the same for all. Here its keys and values are computed
once and repeated; the search starts at its last position.

The stop rule is that of the beam search that the published numbers were made with (transformers before 4.50). Both
rules stop when the best candidate's score per token cannot pass the worst finished one's. The old rule counts a
candidate among the possible best ones in the very step in which it finishes, the new one no longer does, and so stops
earlier now and then.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from omni_avsr.llm import empty_cache, positions

_UPDATE, _CHECK = "_update_finished_beams", "_check_early_stop_heuristic"


def shared_prompt(
    llm: PreTrainedModel, embeds: Tensor, attention_mask: Tensor, num_beams: int
) -> dict[str, DynamicCache]:
    """The argument that lets ``llm.generate`` go on behind all but the last position of its prompts.

    Args:
        embeds: prompts [B, L, H], padded at the left; attention_mask: [B, L].

    Returns:
        a cache for B x ``num_beams`` rows, under the name by which the model takes one.
    """
    argument = empty_cache(llm)
    mask = attention_mask[:, :-1]
    llm(
        inputs_embeds=embeds[:, :-1],
        attention_mask=mask,
        position_ids=positions(mask),
        logits_to_keep=1,
        use_cache=True,
        **argument,
    )
    [cache] = argument.values()
    rows = torch.arange(len(embeds), device=embeds.device).repeat_interleave(num_beams)
    cache.reorder_cache(rows)  # type: ignore[arg-type]  # Tensor is what the tensors of LongTensor are
    return argument


@contextmanager
def published_beam_stop(llm: PreTrainedModel) -> Iterator[None]:
    """Let ``llm.generate`` stop by the old rule inside the ``with`` block.

    Raises:
        ValueError: this release of transformers has no such places to change.
    """
    cls: Any = type(llm)
    if not all(name in dir(cls) for name in (_UPDATE, _CHECK)):
        raise ValueError(
            "this release of transformers searches in another way; the published stop rule is not to be had"
        )
    best = torch.zeros(0)

    def update(topk_log_probs: Tensor, **others: Any) -> Any:
        nonlocal best
        best = topk_log_probs[:, :1].clone()
        return cls._update_finished_beams(llm, topk_log_probs=topk_log_probs, **others)

    def check(
        is_early_stop_heuristic_unsatisfied: Tensor,
        beam_scores: Tensor,
        is_sent_finished: Tensor,
        cur_len: int,
        decoder_prompt_len: int,
        length_penalty: float,
        **_: Any,
    ) -> Tensor:
        possible = best / (cur_len - decoder_prompt_len) ** length_penalty
        full = is_sent_finished.all(dim=1, keepdim=True)
        return is_early_stop_heuristic_unsatisfied & ~(full & (beam_scores.amin(dim=1, keepdim=True) >= possible))

    # Instance attributes go before the methods of the class.
    vars(llm)[_UPDATE], vars(llm)[_CHECK] = update, check
    try:
        yield
    finally:
        del vars(llm)[_UPDATE], vars(llm)[_CHECK]
