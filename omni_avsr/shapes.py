"""Sizes of public base models, and models of these sizes without their weights: to count, to plan and to time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import WordLevel
from torch import Tensor, nn

from omni_avsr.build import assemble_model, new_adapters
from omni_avsr.config import AVHubertConfig, LLMConfig, ModelConfig, SelfSupervisedConfig, WhisperConfig
from omni_avsr.encoders.build import SpeechEncoder, build_encoder
from omni_avsr.encoders.self_supervised import SelfSupervisedEncoder
from omni_avsr.encoders.stored import check_model_type
from omni_avsr.encoders.whisper import WhisperEncoder, read_whisper_config
from omni_avsr.llm import LLM, generation_config, read_llm_config
from omni_avsr.model import OmniAVSR
from omni_avsr.skeleton import fill, llm_skeleton, tensor_shapes
from omni_avsr.types import Modality
from omni_avsr.weights import Weights, find_local


def _llm(
    hidden_size: int, num_layers: int, num_heads: int, num_kv_heads: int, ffn: int, vocab_size: int, tied: bool
) -> dict[str, Any]:
    return {
        "hidden_size": hidden_size,
        "num_hidden_layers": num_layers,
        "num_attention_heads": num_heads,
        "num_key_value_heads": num_kv_heads,
        "intermediate_size": ffn,
        "vocab_size": vocab_size,
        "tie_word_embeddings": tied,
    }


def _whisper(d_model: int, num_layers: int, num_mels: int = 80, vocab_size: int = 51_864) -> dict[str, Any]:
    heads = {"encoder_attention_heads": d_model // 64, "decoder_attention_heads": d_model // 64}
    widths = {"d_model": d_model, "encoder_ffn_dim": 4 * d_model, "decoder_ffn_dim": 4 * d_model}
    layers = {"encoder_layers": num_layers, "decoder_layers": num_layers}
    return {**widths, **heads, **layers, "num_mel_bins": num_mels, "vocab_size": vocab_size}


LLM_SHAPES: Mapping[str, Mapping[str, Any]] = {
    "meta-llama/Llama-3.2-1B": _llm(2048, 16, 32, 8, 8192, 128_256, True),
    "meta-llama/Llama-3.2-3B": _llm(3072, 28, 24, 8, 8192, 128_256, True),
    "meta-llama/Llama-3.1-8B": _llm(4096, 32, 32, 8, 14_336, 128_256, False),
    "Qwen/Qwen2.5-0.5B": _llm(896, 24, 14, 2, 4864, 151_936, True),
    "Qwen/Qwen2.5-1.5B": _llm(1536, 28, 12, 2, 8960, 151_936, True),
    "Qwen/Qwen2.5-3B": _llm(2048, 36, 16, 2, 11_008, 151_936, True),
    "Qwen/Qwen2.5-7B": _llm(3584, 28, 28, 4, 18_944, 152_064, False),
    "Qwen/Qwen2.5-14B": _llm(5120, 48, 40, 8, 13_824, 152_064, False),
    "Qwen/Qwen2.5-32B": _llm(5120, 64, 40, 8, 27_648, 152_064, False),
    "HuggingFaceTB/SmolLM2-135M-Instruct": _llm(576, 30, 9, 3, 1536, 49_152, True),
}
"""By Hub id, under transformers' names; a name that begins with Qwen is a Qwen2, all others are Llamas."""
WHISPER_SHAPES: Mapping[str, Mapping[str, Any]] = {
    "openai/whisper-tiny.en": _whisper(384, 4),
    "openai/whisper-base.en": _whisper(512, 6),
    "openai/whisper-small.en": _whisper(768, 12),
    "openai/whisper-medium.en": _whisper(1024, 24),
    "openai/whisper-large-v3": _whisper(1280, 32, 128, 51_866),
}
_LARGE = {
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
    "feat_extract_norm": "layer",
    "do_stable_layer_norm": True,
}
SELF_SUPERVISED_SHAPES: Mapping[str, Mapping[str, Any]] = {
    "facebook/wav2vec2-base": {},
    "facebook/hubert-base-ls960": {},
    "microsoft/wavlm-base-plus": {},
    "facebook/wav2vec2-large-lv60": _LARGE,
    "facebook/hubert-large-ll60k": _LARGE,
    "microsoft/wavlm-large": _LARGE,
}
"""Where they differ from transformers' own sizes, which are those of the base models."""
_SPECIAL = ("<bos>", "<eos>", "<unk>")


def shaped_model(
    config: ModelConfig, seed: int, device: str = "cpu", llm_shape: Mapping[str, Any] | None = None
) -> OmniAVSR:
    """A model as ``build_model`` makes it, but of random weights; no weights are read.

    Sizes are those of the public base models, and of others what their folders' settings say. The tokenizer is made up:
    one token a word, and a vocabulary of the LLM's size. ``meta`` as the device gives tensors without values, to count
    by.

    Args:
        llm_shape: sizes of an LLM that is not in ``LLM_SHAPES``.

    Raises:
        ValueError: the sizes of a base model are not known here.
    """
    with torch.random.fork_rng(devices=[]), torch.device(device):
        torch.manual_seed(seed)
        llm = _random_llm(_sizes(config.llm, llm_shape), config.llm, seed, device)
        encoders = {m: _random_encoder(config, m) for m in Modality if config.encoder_of(m) is not None}
        return assemble_model(config, llm, encoders, seed, new_adapters(config, llm, seed)).eval()


def shaped_llm(config: LLMConfig, seed: int) -> LLM:
    """The language model of ``shaped_model`` alone. ValueError: its sizes are not known here."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _random_llm(_sizes(config, None), config, seed, "cpu")


def _sizes(config: LLMConfig, llm_shape: Mapping[str, Any] | None) -> transformers.PreTrainedConfig:
    sizes = _named_llm(config.weights, llm_shape) if llm_shape else llm_sizes(config.weights)
    if config.num_layers is not None:
        sizes.num_hidden_layers = config.num_layers
        if kinds := sizes.to_dict().get("layer_types"):
            sizes.layer_types = kinds[: config.num_layers]
    return sizes


def llm_sizes(weights: str) -> transformers.PreTrainedConfig:
    """The sizes of a language model: a public one, or what the settings of its folder or GGUF file say.

    Raises:
        ValueError: it is not known here, and not on this machine.
    """
    if weights in LLM_SHAPES:
        return _named_llm(weights, LLM_SHAPES[weights])
    return read_llm_config(_local(weights, "LLM", LLM_SHAPES))


def _named_llm(name: str, shape: Mapping[str, Any]) -> transformers.PreTrainedConfig:
    return transformers.Qwen2Config(**shape) if "Qwen" in name else transformers.LlamaConfig(**shape)


def _local(weights: str, what: str, known: Iterable[str]) -> Path:
    """Where base weights are whose sizes are not in the list of ``known`` ones."""
    path = find_local(weights)
    if path is None:
        raise ValueError(
            f"the sizes of the {what} {weights} are not known here, and it is not on this machine; known are "
            f"{', '.join(known)}"
        )
    return path


def _random_encoder(config: ModelConfig, modality: Modality) -> SpeechEncoder:
    encoder = config.encoder_of(modality)
    assert encoder is not None
    if isinstance(encoder, WhisperConfig):
        whisper = WhisperEncoder(whisper_shape(encoder.weights), encoder.context, encoder.length)
        return SpeechEncoder(whisper.to(getattr(torch, encoder.dtype)), encoder.ctc)
    if isinstance(encoder, SelfSupervisedConfig):
        sizes = _self_supervised_sizes(encoder)
        speech = SelfSupervisedEncoder(sizes, normalize=True).to(getattr(torch, encoder.dtype))
        return SpeechEncoder(speech, encoder.ctc)
    return build_encoder(replace(encoder, weights=None) if isinstance(encoder, AVHubertConfig) else encoder)


def whisper_shape(weights: str) -> transformers.WhisperConfig:
    """The sizes of a Whisper, as ``llm_sizes`` gives those of a language model."""
    if weights in WHISPER_SHAPES:
        return transformers.WhisperConfig(**WHISPER_SHAPES[weights])
    return read_whisper_config(_local(weights, "encoder", WHISPER_SHAPES))


def _self_supervised_sizes(encoder: SelfSupervisedConfig) -> transformers.PreTrainedConfig:
    if encoder.weights in SELF_SUPERVISED_SHAPES:
        return transformers.AutoConfig.for_model(encoder.kind, **SELF_SUPERVISED_SHAPES[encoder.weights])
    path = _local(encoder.weights, "encoder", SELF_SUPERVISED_SHAPES)
    check_model_type(path, encoder.kind)
    return transformers.AutoConfig.from_pretrained(path)


def whisper_tokenizer(language: str | None) -> transformers.PreTrainedTokenizerFast:
    """A made-up tokenizer with the special tokens that Whisper's decoder needs, and one token a word."""
    names = ["startoftranscript", "transcribe", "notimestamps", "endoftext", *([language] if language else [])]
    special = [f"<|{name}|>" for name in names]
    words = Tokenizer(WordLevel({token: index for index, token in enumerate(special)}, unk_token=special[0]))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=words, additional_special_tokens=special)


def _random_llm(sizes: transformers.PreTrainedConfig, part: LLMConfig, seed: int, device: str) -> LLM:
    name, dtype, vocab_size = part.weights, getattr(torch, part.dtype), sizes.vocab_size
    vocabulary = {token: index for index, token in enumerate(_SPECIAL)}
    vocabulary |= {f"w{number}": len(_SPECIAL) + number for number in range(vocab_size - len(_SPECIAL))}
    words = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    is_qwen = sizes.model_type.startswith("qwen")
    special = {"eos_token": "<eos>", "unk_token": "<unk>"} | ({} if is_qwen else {"bos_token": "<bos>"})
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=words, **special)
    # No pad id: it would make the row of eos zero.
    sizes.update({"bos_token_id": None if is_qwen else 0, "eos_token_id": 1, "pad_token_id": None})
    model: transformers.PreTrainedModel
    if part.quantization is None:
        model = transformers.AutoModelForCausalLM.from_config(sizes, dtype=dtype).requires_grad_(False).eval()
    else:
        model = llm_skeleton(sizes, dtype, part.quantization, device)
        if device != "meta":
            generator, std = torch.Generator().manual_seed(seed), sizes.initializer_range
            fill(model, {n: _RandomRows(shape, std, generator) for n, shape in tensor_shapes(model).items()})
    embeddings = model.get_input_embeddings()
    assert isinstance(embeddings, nn.Embedding)
    llm = LLM(
        model=model,
        tokenizer=tokenizer,
        weights=Weights(name, Path(name)),
        hidden_size=sizes.hidden_size,
        vocab_size=vocab_size,
        bos_id=tokenizer.bos_token_id,
        eos_id=tokenizer.eos_token_id,
        pad_id=tokenizer.eos_token_id,
        embedding_std=model.config.initializer_range,
    )
    model.generation_config = generation_config(llm)
    return llm


@dataclass(frozen=True)
class _RandomRows:
    """Rows as a new model has them, made when they are read: normal in a matrix, ones in a vector."""

    shape: tuple[int, ...]
    std: float
    generator: torch.Generator

    def read(self, first: int, last: int) -> Tensor:
        if len(self.shape) == 1:
            return torch.ones(last - first)
        return self.std * torch.randn(last - first, *self.shape[1:], generator=self.generator)
