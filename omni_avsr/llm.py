"""Load a frozen causal language model with its tokenizer and the facts that the rest of the model needs of them."""

from __future__ import annotations

import importlib.util
import inspect
import logging
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from filelock import FileLock
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    DynamicCache,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from omni_avsr.config import PublishedSearch, Quantization
from omni_avsr.skeleton import fill, llm_skeleton, unfit
from omni_avsr.streaming import Rows, slabs, stored_rows
from omni_avsr.weights import Weights, cache_folder, check_sha256, resolve

logger = logging.getLogger(__name__)

# Families that cap or scale logits behind the output matrix (Gemma 2, Granite, Cohere).
_LOGIT_CHANGES = ("final_logit_softcapping", "logits_scaling", "logit_scale")
Change = Callable[[dict[str, Rows]], dict[str, Rows]]
"""Other weights made of those that are stored."""
# Part of the cache key: another way of converting must not find the files of this one.
_GGUF_FORMAT = 1
CACHE_ARGUMENTS = ("cache", "past_key_values")
"""What models and their decoder layers call their cache, from transformers 5.24 on and before it."""


@dataclass(frozen=True, eq=False)
class LLM:
    """A frozen causal language model in eval mode, its tokenizer, and facts about them.

    hidden_size: width of the embeddings; vocab_size: their rows, which may be more than the tokenizer names.
    bos_id: the first token of a sequence; None when the family uses none (Qwen).
    eos_id: what ends a transcript; pad_id: the same id, always under a mask, since the vocabulary is never resized.
    embedding_std: spread of the embedding weights, the scale that projected audio and video tokens have to meet.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    weights: Weights
    hidden_size: int
    vocab_size: int
    bos_id: int | None
    eos_id: int
    pad_id: int
    embedding_std: float

    def encode(self, text: str) -> list[int]:
        """The ids of ``text`` alone, without bos or eos."""
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def decode(self, ids: list[int] | Tensor) -> str:
        """The text of ``ids``, special tokens dropped and spaces left as they are."""
        text = self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        assert isinstance(text, str), "one sequence of ids, not a batch"
        return text


def load_llm(
    reference: str,
    dtype: torch.dtype = torch.float32,
    sha256: str | None = None,
    num_layers: int | None = None,
    quantization: Quantization | None = None,
    change: Change | None = None,
    embeddings_only: bool = False,
) -> LLM:
    """Load and freeze the causal LM that ``reference`` names (see ``weights``), on the CPU in ``dtype``.

    Weights are read a few rows at a time, so that there is never a second copy of them, or a float one of those that
    are quantised. Where that cannot be (files of PyTorch's own format, families whose tensors are not stored as the
    model has them), transformers loads them.

    ``num_layers`` keeps only the first so many of its decoder layers (None: all). ``change`` is made to the stored
    weights before they are quantised. ``embeddings_only`` leaves out all layers and an output matrix that is not the
    table of embeddings: there is nothing to run then.

    A GGUF file is de-quantised once into ``cache_folder()`` and read from there afterwards. The generation settings
    that came with the weights are replaced by deterministic ones (see ``generation_config``).

    Raises:
        ValueError: when the weights cannot be had, their fingerprint is not ``sha256``, the tokenizer does not fit,
            there are fewer layers than ``num_layers``, a library for ``quantization`` is missing, or weights to be
            quantised or changed cannot be read row by row.
    """
    weights = resolve(reference)
    check_sha256(weights, sha256)
    folder = _dequantised(weights) if weights.path.suffix == ".gguf" else weights.path
    if not folder.is_dir():
        raise ValueError(f"LLM {reference!r}: {folder} is neither a folder of transformers nor a .gguf file")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = _load(folder, reference, dtype, 0 if embeddings_only else num_layers, quantization, change)
    if changed := [name for name in _LOGIT_CHANGES if model.config.to_dict().get(name) not in (None, 1, 1.0)]:
        raise ValueError(f"LLM {reference!r} changes its logits by {', '.join(changed)}, which training leaves out")

    embeddings = model.get_input_embeddings()
    assert isinstance(embeddings, nn.Embedding)
    vocab_size, hidden_size = embeddings.num_embeddings, embeddings.embedding_dim
    bos_id, eos_id = tokenizer.bos_token_id, tokenizer.eos_token_id
    if eos_id is None:
        raise ValueError(f"LLM {reference!r}: its tokenizer has no eos token, so no transcript could end")
    # Not len(tokenizer): reading a GGUF may add an unknown-token entry behind the vocabulary, which no text maps to.
    if max(tokenizer.vocab_size, eos_id + 1, (bos_id or 0) + 1) > vocab_size:
        raise ValueError(
            f"LLM {reference!r}: a tokenizer of {tokenizer.vocab_size} tokens, bos {bos_id} and eos {eos_id}, "
            f"but only {vocab_size} embeddings"
        )
    llm = LLM(
        model=model,
        tokenizer=tokenizer,
        weights=weights,
        hidden_size=hidden_size,
        vocab_size=vocab_size,
        bos_id=bos_id,
        eos_id=eos_id,
        pad_id=eos_id,
        embedding_std=_std(embeddings),
    )
    # transformers fills whatever a call leaves open from the model's own settings, so these have to be clean as well.
    model.generation_config = generation_config(llm)
    return llm


def read_llm_config(path: Path) -> PreTrainedConfig:
    """The settings of the causal LM in a folder or a GGUF file; no weights are read."""
    if path.suffix != ".gguf":
        return AutoConfig.from_pretrained(path)
    converted = _converted_folder(Weights(str(path), path))
    if converted.is_dir():
        return AutoConfig.from_pretrained(converted)
    return AutoConfig.from_pretrained(path.parent, gguf_file=path.name)


def generation_config(
    llm: LLM, max_new_tokens: int | None = None, num_beams: int = 1, published: PublishedSearch | None = None
) -> GenerationConfig:
    """Settings for ``generate`` that never sample, whatever the weights ship (Llama's samples at temperature 0.6,
    which made the published beam search differ from run to run; Omni-AVSR, section 1.7), unless told so."""
    sampling = {}
    if published is not None and published.temperature is not None:
        sampling = {"temperature": published.temperature, "top_p": published.top_p, "top_k": published.top_k}
    return GenerationConfig(
        do_sample=bool(sampling),
        **sampling,
        num_beams=num_beams,
        max_new_tokens=max_new_tokens,
        bos_token_id=llm.bos_id,
        eos_token_id=llm.eos_id,
        pad_token_id=llm.pad_id,
    )


def empty_cache(model: PreTrainedModel) -> dict[str, DynamicCache]:
    """A cache for keys and values of ``model``, under the name by which its forward takes one."""
    [name] = set(CACHE_ARGUMENTS) & set(inspect.signature(model.forward).parameters)
    return {name: DynamicCache(config=model.config)}


def positions(attention_mask: Tensor) -> Tensor:
    """Position ids [B, L] as transformers' own generate counts them: masked positions do not count."""
    return (attention_mask.cumsum(-1) - 1).clamp(min=0)


def _load(
    folder: Path,
    reference: str,
    dtype: torch.dtype,
    num_layers: int | None,
    quantization: Quantization | None,
    change: Change | None,
) -> PreTrainedModel:
    """The model in ``folder``, frozen and in evaluation mode."""
    model = llm_skeleton(AutoConfig.from_pretrained(folder), dtype, quantization)
    if num_layers is not None:
        _keep_first_layers(model, num_layers, reference)
    if num_layers == 0 and not model.config.tie_word_embeddings:
        model.set_output_embeddings(nn.Identity())
    rows = stored_rows(folder)
    if (reason := unfit(model, rows)) is None:
        fill(model, rows if change is None else change(rows))
        return model
    if quantization is not None or change is not None:
        raise ValueError(
            f"LLM {reference!r} cannot be read row by row, as it has to be to quantise it or to merge adapters: "
            f"in {folder}, {reason}. Save it with transformers' save_pretrained (safetensors) and name that folder"
        )
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    if num_layers is not None:
        _keep_first_layers(model, num_layers, reference)
    return model.requires_grad_(False).eval()


def _keep_first_layers(model: PreTrainedModel, num_layers: int, reference: str) -> None:
    """Cut the decoder behind its first ``num_layers`` layers; its last norm and the output matrix stay."""
    decoder = model.get_decoder()
    if num_layers > len(decoder.layers):
        raise ValueError(f"LLM {reference!r} has {len(decoder.layers)} layers, num_layers asks for {num_layers}")
    decoder.layers = decoder.layers[:num_layers]
    # A cache is made by the config, which some families give a list with an entry for each layer.
    model.config.num_hidden_layers = num_layers
    if kinds := model.config.to_dict().get("layer_types"):
        model.config.layer_types = kinds[:num_layers]


def _std(embeddings: nn.Embedding) -> float:
    """Standard deviation in float64, some rows at a time so that no second copy of the table is made."""
    total = square = 0.0
    for first, last in slabs(embeddings.num_embeddings, embeddings.embedding_dim):
        values = embeddings(torch.arange(first, last)).double()
        total += values.sum().item()
        square += values.square().sum().item()
    size = embeddings.num_embeddings * embeddings.embedding_dim
    mean = total / size
    return max(square / size - mean**2, 0.0) ** 0.5


def _dequantised(weights: Weights) -> Path:
    """The folder of transformers made from a GGUF file, converted on first use. Safe in several processes at once."""
    folder = _converted_folder(weights)
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not folder.is_dir():
            partial = folder.with_name(folder.name + ".partial")
            # A killed conversion leaves its folder behind; whoever holds the lock owns it.
            shutil.rmtree(partial, ignore_errors=True)
            _convert_gguf(weights, partial)
            partial.rename(folder)
    return folder


def _converted_folder(weights: Weights) -> Path:
    return cache_folder() / "gguf" / f"{weights.path.stem}-{weights.sha256()}-v{_GGUF_FORMAT}"


def _convert_gguf(weights: Weights, folder: Path) -> None:
    """De-quantise a GGUF file into ``folder``: float16 where that loses nothing (an F16 file), else float32."""
    if importlib.util.find_spec("gguf") is None:
        raise ValueError(
            f"LLM {weights.reference!r}: reading a GGUF file needs the gguf package; run 'pip install gguf'"
        )
    from transformers import GgufConfig  # only here: releases of transformers before GgufConfig read every other format

    logger.info("converting %s once into %s", weights.path, folder)
    source, name = weights.path.parent, weights.path.name
    tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=name)
    model = AutoModelForCausalLM.from_pretrained(
        source, gguf_file=name, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True)
    )
    if all(torch.equal(parameter.half().float(), parameter) for parameter in model.parameters()):
        model.half()
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)
