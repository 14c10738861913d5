"""Reference outputs of the authors' code, and the base models that they were computed with, as folders of settings."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from transformers import LlamaConfig, PreTrainedTokenizerFast, WhisperConfig


@dataclass(frozen=True)
class Golden:
    """One file of reference outputs. ``facts``: its JSON; ``tensors``: inputs and outputs; ``state``: the weights."""

    facts: dict[str, Any]
    tensors: dict[str, Tensor]
    state: dict[str, Tensor]


def read_golden(folder: Path, name: str) -> Golden:
    stored = load_file(folder / f"golden_{name}.safetensors")
    tensors = {name: value.float() if value.is_floating_point() else value for name, value in stored.items()}
    state = {name.removeprefix("w."): value for name, value in tensors.items() if name.startswith("w.")}
    facts = json.loads((folder / f"golden_{name}.json").read_text())
    return Golden(facts, {n: v for n, v in tensors.items() if not n.startswith("w.")}, state)


def save_references(facts: dict[str, Any], folder: Path) -> tuple[Path, Path]:
    """Settings and tokenizer of the LLM and settings of Whisper, as the reference outputs had them; no weights."""
    llm, whisper = folder / "llm", folder / "whisper"
    settings = {k: v for k, v in facts["config"]["llama"].items() if k != "vocab_size_after_resize"}
    LlamaConfig(**settings).save_pretrained(llm)
    byte_tokenizer().save_pretrained(llm)
    WhisperConfig(**facts["config"]["whisper"]).save_pretrained(whisper)
    return llm, whisper


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte, numbered as in GPT-2's alphabet, then bos and eos."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    alphabet = [*map(chr, printable), *(chr(256 + place) for place in range(len(others)))]
    special = ["<|begin_of_text|>", "<|end_of_text|>"]
    tokenizer = Tokenizer(models.BPE({token: index for index, token in enumerate([*alphabet, *special])}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=special[0], eos_token=special[1])
