"""Models of real shapes with random weights, and random batches for them; no weights are read.

The tokenizer is made up: one token a word, as many words as the LLM has embeddings. Prompts and transcripts have as
many tokens as SmolLM2's own tokenizer gives the published prompts (7, 7 and 9) and GRID's six-word sentences (6).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal, NamedTuple

import torch

from benchmarks.cases import AUDIO_RATES, VIDEO_RATES, Size
from omni_avsr.config import (
    AdapterConfig,
    AVHubertConfig,
    CompactAudioConfig,
    CompactVideoConfig,
    CompressionConfig,
    DType,
    LLMConfig,
    LoRAConfig,
    ModelConfig,
    ProjectorConfig,
    WhisperConfig,
)
from omni_avsr.features import MOUTH_CROP, SAMPLE_RATE, VIDEO_FPS
from omni_avsr.model import OmniAVSR
from omni_avsr.shapes import shaped_model
from omni_avsr.types import Features, Modality, Task

PROMPT_TOKENS = {Task.ASR: 7, Task.VSR: 7, Task.AVSR: 9}
TRANSCRIPT_TOKENS_PER_SECOND = 2


def _words(count: int) -> str:
    return " ".join(f"w{number}" for number in range(count))


PROMPTS = {task: _words(count) for task, count in PROMPT_TOKENS.items()}
TINY_LLM = {
    "vocab_size": 512,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "tie_word_embeddings": True,
}
TINY_AUDIO = CompactAudioConfig(dim=16, num_layers=1, num_heads=2, kernel=3)
TINY_VIDEO = CompactVideoConfig(dim=16, num_layers=1, num_heads=2, kernel=3, channels=(2, 4), image_size=16)
TINY_AVHUBERT = AVHubertConfig(dim=16, num_layers=2, num_heads=2, ffn_dim=32, channels=(4, 4, 8, 8))
BASE_AVHUBERT = AVHubertConfig(dim=768, num_layers=12, num_heads=12, ffn_dim=3072)


class Parts(NamedTuple):
    """Base models of the published recipe, with the width of the LLM."""

    llm: str
    llm_width: int
    audio_encoder: str
    video_encoder: AVHubertConfig


SMOLLM2 = "HuggingFaceTB/SmolLM2-135M-Instruct"
PUBLISHED_PARTS: Mapping[Size, Parts] = {
    "tiny": Parts(SMOLLM2, TINY_LLM["hidden_size"], "openai/whisper-tiny.en", TINY_AVHUBERT),
    "smollm2_135m": Parts(SMOLLM2, 576, "openai/whisper-tiny.en", BASE_AVHUBERT),
    "llama_1b": Parts("meta-llama/Llama-3.2-1B", 2048, "openai/whisper-medium.en", AVHubertConfig()),
}


def random_model(size: Size, seed: int) -> OmniAVSR:
    """A model as ``build_model`` makes it (hybrid adapters of rank 16), in eval mode, all of it random."""
    tiny = size == "tiny"
    config = ModelConfig(
        llm=LLMConfig(SMOLLM2),
        audio_encoder=TINY_AUDIO if tiny else WhisperConfig("openai/whisper-tiny.en", context="trimmed", ctc=True),
        video_encoder=TINY_VIDEO if tiny else CompactVideoConfig(),
        compression=CompressionConfig(audio_rates=AUDIO_RATES, video_rates=VIDEO_RATES),
        adapters=AdapterConfig(strategy="hybrid", rank=16),
        prompts=PROMPTS,
    )
    return shaped_model(config, seed, llm_shape=TINY_LLM if tiny else None)


def published_model(
    size: Size, strategy: Literal["shared", "task_specific", "hybrid"], dtype: DType, seed: int
) -> OmniAVSR:
    """The published recipe with parts of that size, in eval mode, but with Whisper's context trimmed.

    LoRA in the video encoder has a sixteenth of its width and is scaled by 2, that of the LLM a 32nd and by 4 / 32.

    dtype: of what is frozen.
    """
    parts = PUBLISHED_PARTS[size]
    video_rank, llm_rank = parts.video_encoder.dim // 16, round(parts.llm_width / 32)
    config = ModelConfig(
        llm=LLMConfig(parts.llm, dtype),
        audio_encoder=WhisperConfig(parts.audio_encoder, dtype=dtype),
        video_encoder=replace(parts.video_encoder, lora=LoRAConfig(video_rank, 2 * video_rank), dtype=dtype),
        compression=CompressionConfig(audio_rates=AUDIO_RATES, video_rates=VIDEO_RATES),
        projector=ProjectorConfig(hidden_dim=64 if size == "tiny" else 2048, layer_norm=False),
        adapters=AdapterConfig(strategy, llm_rank, llm_rank * 4 / 32),
        prompts=PROMPTS,
    )
    return shaped_model(config, seed, llm_shape=TINY_LLM if size == "tiny" else None)


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
