"""A published checkpoint of Omni-AVSR -> an ``OmniAVSR`` with the same outputs, and a checkpoint folder of it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from omni_avsr.build import build_model
from omni_avsr.checkpoint import save_checkpoint
from omni_avsr.config import PUBLISHED_PROMPTS, ModelConfig, WhisperConfig
from omni_avsr.model import OmniAVSR
from omni_avsr.pickles import load_with_stubs
from omni_avsr.provenance import commit, file_sha256, today
from omni_avsr.published.bases import read_settings, write_llm, write_whisper
from omni_avsr.published.facts import ImportConfig, model_config
from omni_avsr.published.names import EMBEDDINGS, HEAD, PROMPT, TASK_NAMES, own_names
from omni_avsr.types import Task
from omni_avsr.weights import resolve

log = logging.getLogger(__name__)

LIGHTNING_PREFIX = "model."
_OWN_EMBEDDINGS, _OWN_HEAD = "llm.model.embed_tokens.base.weight", "llm.lm_head.base.weight"


def import_checkpoint(config: ImportConfig) -> Path:
    """Read ``config.checkpoint`` and write ``config.output``, a checkpoint folder like any other.

    Raises:
        ValueError: as ``import_state``, or the file cannot be read safely.
    """
    state = read_state(config.checkpoint)
    model, differing = import_state(state, config)
    dtypes = {value.dtype for value in state.values() if value.is_floating_point()}
    training = {
        "domain": config.domain,
        "imported": {"sha256": file_sha256(config.checkpoint), "file": config.checkpoint.name},
        "commit": commit(),
        "date": today(),
    }
    save_checkpoint(config.output, model, differing, training, dtypes.pop() if len(dtypes) == 1 else None)
    return config.output


def read_state(path: Path) -> dict[str, Tensor]:
    """The state dict in a file of the authors: averaged (bare) or of Lightning (``state_dict``, ``model.`` before
    each name, and settings that are not read), or in safetensors. Nothing in the file is run.

    Raises:
        ValueError: there is no such file, or it holds no state dict that can be read so.
    """
    content = _read_safetensors(path) if path.suffix == ".safetensors" else load_with_stubs(path)
    state = content.get("state_dict", content) if isinstance(content, dict) else None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()) or not state:
        raise ValueError(f"{path} holds no state dict")
    return {str(name).removeprefix(LIGHTNING_PREFIX): value for name, value in state.items()}


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error


def import_state(state: Mapping[str, Tensor], config: ImportConfig) -> tuple[OmniAVSR, dict[str, Tensor]]:
    """The model that ``state`` holds, frozen and in evaluation mode, with the published behaviour in its settings.

    Args:
        state: by the authors' names (``read_state``).

    Returns:
        The model, and those tensors of base models in which it differs from what the settings name: a checkpoint has
        to hold them.

    Raises:
        ValueError: a tensor has no place, none or another shape; prompts are not of this LLM; or the base models are
            others than the ones named, without ``config.extract``.
    """
    if EMBEDDINGS not in state:
        raise ValueError(f"{config.checkpoint} holds no model of Omni-AVSR: it has no {EMBEDDINGS}")
    reference = resolve(config.llm).path
    settings = read_settings(reference)
    tokenizer = AutoTokenizer.from_pretrained(reference)
    wanted = model_config(state, config, settings["model_type"], read_prompts(state, tokenizer))
    vocab_size = wanted.markers.vocab_size
    assert vocab_size is not None
    if config.extract is not None:
        wanted = _extract(state, config.extract, reference, wanted, vocab_size)
    model = build_model(wanted, seed=0)
    tensors = own_names(state, config.rates) | _rows(state, vocab_size)
    differing = _load(model, tensors, config)
    return model.requires_grad_(False).eval(), differing


def read_prompts(state: Mapping[str, Tensor], tokenizer: PreTrainedTokenizerBase) -> dict[Task, str]:
    """The prompts, which a checkpoint holds as rows of the embeddings; the published ones where it holds none.

    Raises:
        ValueError: a row is no embedding, or the tokens are none that ``tokenizer`` gives.
    """
    prompts = dict(PUBLISHED_PROMPTS)
    for name, task in TASK_NAMES.items():
        if (rows := state.get(f"{PROMPT}{name}")) is None:
            continue
        ids = tokenizer(prompts[task], add_special_tokens=False)["input_ids"]
        if torch.equal(state[EMBEDDINGS][ids], rows[0]):
            continue
        ids = [_row_of(row, state[EMBEDDINGS], f"{PROMPT}{name}") for row in rows[0]]
        text = tokenizer.decode(ids, clean_up_tokenization_spaces=False)
        assert isinstance(text, str), "one sequence of ids, not a batch"
        if tokenizer(text, add_special_tokens=False)["input_ids"] != ids:
            raise ValueError(f"{PROMPT}{name} has the tokens {ids}, which the tokenizer does not give for {text!r}")
        prompts[task] = text
    return prompts


def _row_of(row: Tensor, embeddings: Tensor, name: str) -> int:
    found = (embeddings == row).all(dim=1).nonzero()
    if not len(found):
        raise ValueError(f"{name} has a row that is none of the embeddings; is it of another LLM?")
    return int(found[0])


def _extract(state: Mapping[str, Tensor], folder: Path, llm: Path, wanted: ModelConfig, vocab_size: int) -> ModelConfig:
    """Write the base models of ``state`` below ``folder``; returns the settings that name them there."""
    folder = folder.absolute()  # it is found again from any working directory
    folder.mkdir(parents=True, exist_ok=True)
    write_llm(state, llm, vocab_size, folder / "llm")
    wanted = replace(wanted, llm=replace(wanted.llm, weights=str(folder / "llm")))
    if isinstance(whisper := wanted.audio_encoder, WhisperConfig):
        write_whisper(state, resolve(whisper.weights).path, folder / "audio_encoder")
        wanted = replace(wanted, audio_encoder=replace(whisper, weights=str(folder / "audio_encoder")))
    return wanted


def _rows(state: Mapping[str, Tensor], vocab_size: int) -> dict[str, Tensor]:
    """The embeddings and the output matrix, split into the LLM's own rows and those behind them."""
    embeddings, head = state[EMBEDDINGS], state.get(HEAD, state[EMBEDDINGS])
    return {
        _OWN_EMBEDDINGS: embeddings[:vocab_size],
        _OWN_HEAD: head[:vocab_size],
        "markers.weight": embeddings[vocab_size:],
        "marker_outputs.weight": head[vocab_size:],
    }


@torch.no_grad()
def _load(model: OmniAVSR, tensors: Mapping[str, Tensor], config: ImportConfig) -> dict[str, Tensor]:
    """Copy ``tensors`` into ``model``; returns those of base models that differed."""
    own = dict(model.state_dict())
    bases = tuple(model.config.base_weights)
    own_only = {name for name in own if not name.startswith(bases) or ".lora_" in name}
    problems = [
        *(f"no {name}" for name in sorted(own.keys() - tensors.keys())),
        *(f"{name} is left over" for name in sorted(tensors.keys() - own.keys())),
    ]
    differing = {}
    for name in sorted(tensors.keys() & own.keys()):
        value, target = tensors[name], own[name]
        if name in (_OWN_EMBEDDINGS, _OWN_HEAD):
            target = target[: len(value)]  # Qwen has rows behind its tokens, which the authors cut off
        if target.shape != value.shape:
            problems.append(f"{name} has {list(value.shape)}, expected {list(target.shape)}")
        elif not torch.equal(target.to(value.dtype), value):
            if name not in own_only:
                differing[name] = own[name]
            target.copy_(value)
    if problems:
        raise ValueError(f"{config.checkpoint} does not fit the settings: {'; '.join(problems)}")
    if others := sorted(name for name in differing if not name.startswith("encoders.video.")):
        raise ValueError(
            f"{len(others)} tensors of {config.checkpoint}, such as {others[0]}, are not those of the base models "
            f"{config.llm} and {config.audio_encoder}; name the right ones, or write its own ones (extract=FOLDER)"
        )
    if differing:
        log.info("%d tensors of the video encoder differ from %s", len(differing), config.video_encoder)
    return differing
