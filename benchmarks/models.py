"""Models of real shapes with random weights, and random batches for them; no weights are read.

The tokenizer is made up: one token a word, as many words as the LLM has embeddings. Prompts and transcripts have as
many tokens as SmolLM2's own tokenizer gives the published prompts (7, 7 and 9) and GRID's six-word sentences (6).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import WordLevel
from torch import nn

from benchmarks.cases import AUDIO_RATES, VIDEO_RATES, Size
from omni_avsr.adapters import add_adapters
from omni_avsr.config import (
    AdapterConfig,
    CompactVideoConfig,
    CompressionConfig,
    LLMConfig,
    ModelConfig,
    WhisperConfig,
)
from omni_avsr.encoders.build import SpeechEncoder, build_encoder
from omni_avsr.encoders.whisper import WhisperEncoder
from omni_avsr.features import MOUTH_CROP, SAMPLE_RATE, VIDEO_FPS
from omni_avsr.llm import LLM, generation_config
from omni_avsr.model import OmniAVSR
from omni_avsr.projector import ModalityProjector
from omni_avsr.types import Features, Modality, Task
from omni_avsr.weights import Weights

NAME = "random"
PROMPT_TOKENS = {Task.ASR: 7, Task.VSR: 7, Task.AVSR: 9}
TRANSCRIPT_TOKENS_PER_SECOND = 2
_SPECIAL = ("<bos>", "<eos>", "<unk>")


@dataclass(frozen=True)
class Shapes:
    """Sizes of the parts, under the names of transformers' own configs."""

    llm: dict[str, Any]
    whisper: dict[str, Any]
    video: CompactVideoConfig


SHAPES: dict[Size, Shapes] = {
    "smollm2_135m": Shapes(
        llm={
            "vocab_size": 49152,
            "hidden_size": 576,
            "intermediate_size": 1536,
            "num_hidden_layers": 30,
            "num_attention_heads": 9,
            "num_key_value_heads": 3,
            "max_position_embeddings": 8192,
            "rms_norm_eps": 1e-5,
            "rope_parameters": {"rope_type": "default", "rope_theta": 100_000.0},
        },
        whisper={"d_model": 384, "encoder_layers": 4, "encoder_attention_heads": 6, "encoder_ffn_dim": 1536},
        video=CompactVideoConfig(),
    ),
    "tiny": Shapes(
        llm={
            "vocab_size": 512,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
        },
        whisper={"d_model": 16, "encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 32},
        video=CompactVideoConfig(dim=16, num_layers=1, num_heads=2, kernel=3, channels=(2, 4), image_size=16),
    ),
}


def random_model(size: Size, seed: int) -> OmniAVSR:
    """A model as ``build_model`` makes it (hybrid adapters of rank 16), in eval mode, all of it random."""
    shapes = SHAPES[size]
    config = ModelConfig(
        llm=LLMConfig(NAME),
        audio_encoder=WhisperConfig(NAME, context="trimmed", ctc=True),
        video_encoder=shapes.video,
        compression=CompressionConfig(audio_rates=AUDIO_RATES, video_rates=VIDEO_RATES),
        adapters=AdapterConfig(strategy="hybrid", rank=16),
        prompts={task: _words(count) for task, count in PROMPT_TOKENS.items()},
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        llm = _random_llm(shapes.llm)
        encoders = {Modality.AUDIO: _random_whisper(shapes.whisper), Modality.VIDEO: build_encoder(shapes.video)}
        projectors = {
            modality: ModalityProjector(
                modality,
                encoder.output_dim,
                llm.hidden_size,
                llm.embedding_std,
                config.projector,
                config.compression,
            )
            for modality, encoder in encoders.items()
        }
        router = add_adapters(llm.model, config.adapters, torch.Generator().manual_seed(seed))
        return OmniAVSR(config, llm, router, encoders, projectors).eval()


def random_inputs(clip_seconds: Sequence[float], seed: int) -> dict[Modality, Features]:
    """Noise of the given lengths: waveforms at 16 kHz and mouth crops at 25 fps."""
    generator = torch.Generator().manual_seed(seed)
    waveforms = [0.1 * torch.randn(round(seconds * SAMPLE_RATE), generator=generator) for seconds in clip_seconds]
    crops = [
        torch.randn(round(seconds * VIDEO_FPS), MOUTH_CROP, MOUTH_CROP, generator=generator) for seconds in clip_seconds
    ]
    return {Modality.AUDIO: Features.pad(waveforms), Modality.VIDEO: Features.pad(crops)}


def random_texts(clip_seconds: Sequence[float]) -> list[str]:
    """Transcripts whose token counts follow the clips' lengths; 3 s give GRID's 6."""
    return [_words(round(seconds * TRANSCRIPT_TOKENS_PER_SECOND)) for seconds in clip_seconds]


def _words(count: int) -> str:
    return " ".join(f"w{number}" for number in range(count))


def _random_llm(shape: dict[str, Any]) -> LLM:
    vocab_size = shape["vocab_size"]
    words = [f"w{number}" for number in range(vocab_size - len(_SPECIAL))]
    vocabulary = {token: index for index, token in enumerate([*_SPECIAL, *words])}
    words_to_ids = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    words_to_ids.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    bos, eos, unknown = _SPECIAL
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=words_to_ids, bos_token=bos, eos_token=eos, unk_token=unknown
    )
    # No pad id: it would make the row of eos zero.
    special = {"bos_token_id": vocabulary[bos], "eos_token_id": vocabulary[eos]}
    settings: dict[str, Any] = {**shape, **special, "tie_word_embeddings": True}
    config = transformers.LlamaConfig(**settings)
    model = transformers.LlamaForCausalLM(config).requires_grad_(False).eval()
    embeddings = model.get_input_embeddings()
    assert isinstance(embeddings, nn.Embedding)
    llm = LLM(
        model=model,
        tokenizer=tokenizer,
        weights=Weights(NAME, Path(NAME)),
        hidden_size=config.hidden_size,
        vocab_size=vocab_size,
        bos_id=vocabulary[bos],
        eos_id=vocabulary[eos],
        pad_id=vocabulary[eos],
        embedding_std=float(embeddings.weight.std()),
    )
    model.generation_config = generation_config(llm)
    return llm


def _random_whisper(shape: dict[str, Any]) -> SpeechEncoder:
    encoder = WhisperEncoder(transformers.WhisperConfig(**shape, num_mel_bins=80), "trimmed")
    return SpeechEncoder(encoder, has_ctc=True)
