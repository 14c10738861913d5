"""A CTC head over characters: trains an encoder alone, and stays in the checkpoint to draft transcripts."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from omni_avsr.types import Features

BLANK = 0
ALPHABET = " 'abcdefghijklmnopqrstuvwxyz0123456789"
"""The characters a normalised transcript may hold; id 0 is CTC's blank, so a character's id is its place plus one."""
SPACE = 1 + ALPHABET.index(" ")
_IDS = {character: index + 1 for index, character in enumerate(ALPHABET)}


def encode_text(text: str) -> list[int]:
    """Character ids of a normalised transcript; characters outside the alphabet are left out."""
    return [_IDS[character] for character in text if character in _IDS]


def decode_ids(ids: list[int]) -> str:
    """The text of a frame-by-frame best path: repeats collapsed, blanks removed."""
    kept = [ids[i] for i in range(len(ids)) if ids[i] != BLANK and (i == 0 or ids[i] != ids[i - 1])]
    return "".join(ALPHABET[i - 1] for i in kept).strip()


class CTCHead(nn.Module):
    """Linear layer from encoder features to blank + ``ALPHABET``."""

    def __init__(self, input_dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(input_dim, len(ALPHABET) + 1)

    def forward(self, features: Features) -> Features:
        """[B, T, D] -> log probabilities [B, T, characters + 1], float32."""
        return Features(F.log_softmax(self.linear(features.values).float(), dim=-1), features.lengths)

    def loss(self, features: Features, texts: list[str]) -> Tensor:
        """CTC loss of each clip [B], in nats; a clip too short for its text counts zero instead of infinity."""
        log_probs = self(features)
        targets = [torch.tensor(encode_text(text), dtype=torch.int64) for text in texts]
        return F.ctc_loss(
            log_probs.values.transpose(0, 1),
            torch.cat(targets).to(log_probs.values.device),
            log_probs.lengths,
            torch.tensor([len(target) for target in targets], device=log_probs.lengths.device),
            blank=BLANK,
            reduction="none",
            zero_infinity=True,
        )

    @torch.no_grad()
    def transcribe(self, features: Features) -> list[str]:
        """Greedy best path of each clip."""
        log_probs = self(features)
        best = log_probs.values.argmax(-1).tolist()
        return [decode_ids(row[:length]) for row, length in zip(best, log_probs.lengths.tolist(), strict=True)]
