"""Whisper's own decoder as a training objective: cross entropy of a transcript given encoder features."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoTokenizer, PreTrainedTokenizerBase, WhisperConfig
from transformers.models.whisper.modeling_whisper import WhisperDecoder

from omni_avsr.encoders.whisper import additive_mask, load_part, read_whisper_config
from omni_avsr.types import IGNORE_INDEX, Features

_START, _TRANSCRIBE, _NO_TIMESTAMPS, _END = (
    "<|startoftranscript|>",
    "<|transcribe|>",
    "<|notimestamps|>",
    "<|endoftext|>",
)
# The multilingual vocabularies are the ones with at least this many rows (OpenAI's own rule).
_MULTILINGUAL_VOCABULARY = 51_865


class WhisperDecoderObjective(nn.Module):
    """Scores transcripts with Whisper's decoder, so that its encoder can be trained alone (EFIN, first stage).

    The prefix (start, language and task where the model has them, no timestamps) is given, not scored; the
    transcript's tokens and the end token are scored.
    """

    def __init__(self, config: WhisperConfig, tokenizer: PreTrainedTokenizerBase, language: str | None = None) -> None:
        """Random weights; ``from_folder`` gives trained ones.

        Args:
            language: a code such as "en" for a multilingual model, None for an English-only one.

        Raises:
            ValueError: a language for an English-only model, none for a multilingual one, or an unknown one.
        """
        super().__init__()
        self.decoder = WhisperDecoder(config)
        self.tokenizer = tokenizer
        self.max_positions = config.max_target_positions
        self.prefix_ids = self._prefix(config, language)
        self.end_id = self._id(_END)

    @classmethod
    def from_folder(
        cls, folder: Path, language: str | None = None, dtype: torch.dtype = torch.float32
    ) -> WhisperDecoderObjective:
        """The decoder and tokenizer of a Whisper model saved in transformers' layout; its encoder is not read.

        Raises:
            ValueError: as ``encoders.whisper.WhisperEncoder.from_folder`` and the constructor.
        """
        config = read_whisper_config(folder)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        with torch.device("meta"):
            objective = cls(config, tokenizer, language)
        load_part(objective.decoder, folder, "decoder.", dtype)
        return objective.eval()

    def forward(self, features: Features, texts: list[str]) -> tuple[Tensor, int]:
        """Teacher-forced cross entropy.

        Args:
            features: Whisper encoder features [B, T, D]; only the steps within each row's length are attended.
            texts: B transcripts; spaces around them are ignored.

        Returns:
            The summed loss (float32 scalar, nats) and how many tokens it is summed over.

        Raises:
            ValueError: the numbers of rows and texts differ, or a text has more tokens than the decoder has positions.
        """
        if len(texts) != len(features.lengths):
            raise ValueError(f"{len(features.lengths)} rows of features, but {len(texts)} texts")
        rows = [torch.tensor(self._ids(text)) for text in texts]
        # Pads stand right of every scored token, so the causal mask alone hides them.
        ids = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=self.end_id)
        labels = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=IGNORE_INDEX)
        labels[:, : len(self.prefix_ids)] = IGNORE_INDEX
        device = features.values.device
        hidden = self._decode(ids[:, :-1].to(device), features)
        targets = labels[:, 1:].to(device)
        scored = targets != IGNORE_INDEX
        # The output matrix is the embedding matrix; logits are formed only where a label stands.
        logits = F.linear(hidden[scored], self.decoder.embed_tokens.weight)
        loss = F.cross_entropy(logits.float(), targets[scored], reduction="sum")
        return loss, int(scored.sum())

    def num_tokens(self, texts: list[str]) -> int:
        """How many tokens ``forward`` would score: known before the forward pass, to divide a global batch by."""
        return sum(len(self._ids(text)) - len(self.prefix_ids) for text in texts)

    def _decode(self, ids: Tensor, features: Features) -> Tensor:
        """ids [B, L] -> [B, L, D]. The layers run one by one: the whole decoder takes no mask over the features."""
        decoder, length = self.decoder, ids.shape[1]
        hidden = decoder.embed_tokens(ids) + decoder.embed_positions.weight[:length]
        hidden = F.dropout(hidden, p=decoder.dropout, training=self.training)
        causal = torch.ones(length, length, dtype=torch.bool, device=ids.device).tril()[None, None]
        causal_mask = additive_mask(causal, hidden.dtype)
        values = features.values.to(hidden.dtype)
        features_mask = additive_mask(features.mask()[:, None, None, :], hidden.dtype)
        for layer in decoder.layers:
            hidden = layer(
                hidden,
                attention_mask=causal_mask,
                encoder_hidden_states=values,
                encoder_attention_mask=features_mask,
                use_cache=False,
            )
        return decoder.layer_norm(hidden)

    def _ids(self, text: str) -> list[int]:
        # Whisper's transcripts begin with a space, which belongs to the first word's token.
        text_ids = self.tokenizer(f" {text.strip()}", add_special_tokens=False).input_ids
        ids = [*self.prefix_ids, *text_ids, self.end_id]
        # The end token is predicted but never fed back, so it needs no position.
        if len(ids) - 1 > self.max_positions:
            raise ValueError(
                f"a transcript has {len(text_ids)} tokens, the decoder has {self.max_positions} positions for it and "
                f"the {len(self.prefix_ids)} tokens before it: {text[:60]!r}..."
            )
        return ids

    def _prefix(self, config: WhisperConfig, language: str | None) -> list[int]:
        if config.vocab_size < _MULTILINGUAL_VOCABULARY:
            if language is not None:
                raise ValueError(f'an English-only Whisper takes no language, but "{language}" was asked for')
            return [self._id(_START), self._id(_NO_TIMESTAMPS)]
        if language is None:
            raise ValueError('a multilingual Whisper needs a language, such as "en"')
        return [self._id(token) for token in (_START, f"<|{language}|>", _TRANSCRIBE, _NO_TIMESTAMPS)]

    def _id(self, token: str) -> int:
        ids = self.tokenizer.get_added_vocab()
        if token not in ids:
            raise ValueError(f"the tokenizer has no token {token}")
        return ids[token]
