"""Which words of a transcript each projected token stands for."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from omni_avsr.encoders.ctc import BLANK, SPACE, encode_text
from omni_avsr.llm import LLM
from omni_avsr.projector import pool
from omni_avsr.types import Features, Word


@dataclass(frozen=True)
class Alignment:
    """ids [n] of a transcript's tokens, and weights [N, n]: the share of each in a vector; rows of one, or of zero."""

    ids: Tensor
    weights: Tensor


def align_pooled(llm: LLM, text: str, num_vectors: int) -> Alignment:
    """All tokens of the transcript, pooled to so many vectors (Tiny-Align's casted token size T)."""
    ids = torch.tensor(llm.encode(text))
    return Alignment(ids, pool(Features.whole(torch.eye(len(ids))[None]), num_vectors)[0])


def align_words(llm: LLM, words: Sequence[Word], num_vectors: int, vectors_per_second: float) -> Alignment:
    """The pieces of the word that is spoken in a vector's middle, all of the same weight; nothing in silence."""
    # With its space: most words of a transcript follow another one.
    pieces = [llm.encode(f" {word.text}") for word in words]
    ids = torch.tensor([id_ for piece in pieces for id_ in piece], dtype=torch.int64)
    weights = torch.zeros(num_vectors, len(ids))
    middles, place = (torch.arange(num_vectors) + 0.5) / vectors_per_second, 0
    for word, piece in zip(words, pieces, strict=True):
        spoken = (middles >= word.start) & (middles < word.end)
        weights[spoken, place : place + len(piece)] = 1 / len(piece)
        place += len(piece)
    return Alignment(ids, weights)


def spoken_words(log_probs: Tensor, text: str, frames_per_second: float) -> tuple[Word, ...]:
    """The words of ``text`` with the times at which a CTC head finds them; none where the clip is too short for it.

    A head says each character for a frame or two, and words one after another: a word reaches to the middle between its
    last character and the next one's first; the first and the last one reach a frame beyond theirs.

    Args:
        log_probs: [T, characters + 1], of one clip.
    """
    labels = encode_text(text)
    frames = best_alignment(log_probs, labels)
    if frames is None:
        return ()
    spans: list[tuple[int, int]] = []  # first and last frame of each word
    begins = True
    for label, (first, last) in zip(labels, frames, strict=True):
        if label == SPACE:
            begins = True
            continue
        spans = [*spans, (first, last)] if begins else [*spans[:-1], (spans[-1][0], last)]
        begins = False
    between = [(one[1] + other[0] + 1) / 2 for one, other in itertools.pairwise(spans)]
    edges = [max(0, spans[0][0] - 1), *between, min(len(log_probs), spans[-1][1] + 2)]
    words = "".join(character if encode_text(character) else "" for character in text).split()
    return tuple(
        Word(word, start / frames_per_second, end / frames_per_second)
        for word, start, end in zip(words, edges, edges[1:], strict=False)
    )


def best_alignment(log_probs: Tensor, labels: Sequence[int]) -> list[tuple[int, int]] | None:
    """The first and last frame of each label on the likeliest path that CTC reads as ``labels`` (Viterbi).

    None where there is no such path: too few frames, or no label.
    """
    if not labels:
        return None
    # Blanks around and between all labels; from a state one goes on to itself, to the next, or over a blank to another
    # label.
    states = torch.tensor([BLANK, *(state for label in labels for state in (label, BLANK))])
    skips = torch.zeros(len(states), dtype=torch.bool)
    skips[3::2] = states[3::2] != states[1:-2:2]
    emitted = log_probs.double().cpu()[:, states]
    nothing = torch.tensor(-torch.inf, dtype=torch.float64)
    score = torch.where(torch.arange(len(states)) < 2, emitted[0], nothing)
    steps = []
    for frame in emitted[1:]:
        one, two = (torch.cat([nothing.expand(by), score[:-by]]) for by in (1, 2))
        score, step = torch.stack([score, one, torch.where(skips, two, nothing)]).max(0)
        score = score + frame
        steps.append(step)
    state = len(states) - 1 - int(score[-2] >= score[-1])
    if score[state] == -torch.inf:
        return None
    path = [state]
    for step in reversed(steps):
        state -= int(step[state])
        path.append(state)
    path.reverse()
    found = [[frame for frame, state in enumerate(path) if state == 2 * place + 1] for place in range(len(labels))]
    return [(frames[0], frames[-1]) for frames in found]
