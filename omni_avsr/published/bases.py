"""The base models inside a published checkpoint, written as folders of their own."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import Tensor

from omni_avsr.files import write_atomically
from omni_avsr.published.names import AUDIO, DERIVED, EMBEDDINGS, HEAD, LLM, lora_of

_WEIGHTS = ("*.safetensors", "*.bin", "*.index.json", "*.gguf", "*.pt", "*.pth", "*.h5", "*.msgpack")


def read_settings(reference: Path) -> dict[str, Any]:
    """The config.json of a base model's folder. ValueError: there is none."""
    path = reference / "config.json"
    if not path.is_file():
        raise ValueError(f"{reference} is no folder of transformers: it has no config.json")
    settings: dict[str, Any] = json.loads(path.read_text())
    return settings


def write_llm(state: Mapping[str, Tensor], reference: Path, vocab_size: int, folder: Path) -> None:
    """The LLM of ``state`` in transformers' layout: without LoRA, with the first ``vocab_size`` rows.

    reference: a folder with its config.json and tokenizer.
    """
    lora = lora_of(state, LLM)
    weights = {
        n.removeprefix(LLM): v
        for n, v in state.items()
        if n.startswith(LLM) and n not in lora and not n.endswith(DERIVED)
    }
    for name in (EMBEDDINGS, HEAD):
        if (short := name.removeprefix(LLM)) in weights:
            weights[short] = weights[short][:vocab_size]
    settings = read_settings(reference)
    settings["vocab_size"] = vocab_size
    if settings.get("tie_word_embeddings"):
        weights.pop(HEAD.removeprefix(LLM), None)
    _write(folder, reference, settings, weights)


def write_whisper(state: Mapping[str, Tensor], reference: Path, folder: Path) -> None:
    """The Whisper encoder of ``state`` in transformers' layout, under the settings of ``reference``."""
    weights = {f"encoder.{n.removeprefix(AUDIO)}": v for n, v in state.items() if n.startswith(AUDIO)}
    _write(folder, reference, read_settings(reference), weights)


def _write(folder: Path, reference: Path, settings: dict[str, object], weights: Mapping[str, Tensor]) -> None:
    if folder.exists():
        raise ValueError(f"{folder} exists already; name a new folder to extract to")
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(reference, partial, ignore=shutil.ignore_patterns(*_WEIGHTS, ".*"))
    write_atomically(partial / "config.json", json.dumps(settings, indent=2))
    write_atomically(partial / "model.safetensors", save({n: v.contiguous() for n, v in weights.items()}))
    partial.rename(folder)
