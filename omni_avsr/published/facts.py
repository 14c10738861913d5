"""What the tensors of a published checkpoint tell of the model, and what has to be said beside them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from omni_avsr.config import (
    STRICT,
    AdapterConfig,
    AVHubertConfig,
    CompressionConfig,
    DType,
    LLMConfig,
    LoRAConfig,
    MarkerConfig,
    ModelConfig,
    Positive,
    ProjectorConfig,
    PublishedSearch,
    WhisperConfig,
)
from omni_avsr.encoders.avhubert_weights import rename as rename_avhubert
from omni_avsr.encoders.avhubert_weights import sizes_of
from omni_avsr.published.names import (
    AUDIO,
    EMBEDDINGS,
    LLM,
    TASK_NAMES,
    VIDEO,
    lora_of,
    lora_suffixes,
    projector_indices,
)
from omni_avsr.types import Modality

_DTYPES: dict[torch.dtype, DType] = {
    torch.float32: "float32",
    torch.bfloat16: "bfloat16",
    torch.float16: "float16",
}
_HEADS = {768: 12, 1024: 16}
"""Attention heads of AV-HuBERT Base and Large, by their width."""


@dataclass(frozen=True, config=STRICT)
class ImportConfig:
    """A published checkpoint, and what its tensors do not tell.

    checkpoint: a ``.pth`` or ``.ckpt`` file, or safetensors, of the authors' ``AVSR_LLMs``.
    llm, audio_encoder: the base models, whose settings, tokenizer and (but with ``extract``) weights are taken.
    video_encoder: AV-HuBERT's own checkpoint. Null puts the whole encoder into ``output``; otherwise only what differs
        from it is put there, such as the statistics of batch norm, which drifted in the authors' training.
    extract: a new folder for the base models as they stand in the checkpoint. Without it the checkpoint has to hold
        exactly the weights that ``llm`` and ``audio_encoder`` name.
    audio_rates, video_rates: of the projectors, in the order of the authors' options.
    lora_alpha, lora_divisor: the authors' ``--alpha`` and ``--rank``; the LLM's LoRA is ``hidden / rank`` wide and
        scaled by ``alpha / rank``. Null: the one divisor that gives the width found.
    video_lora_scaling: of AV-HuBERT's LoRA.
    video_num_heads: null for Base and Large.
    padding: attended is what the authors' code does in batches; a clip alone is the same either way.
    llm_dtype: null takes that of the tensors.
    """

    checkpoint: Path
    output: Path
    llm: str
    audio_encoder: str | None = None
    video_encoder: str | None = None
    extract: Path | None = None
    audio_rates: tuple[Positive, ...] = (4, 16)
    video_rates: tuple[Positive, ...] = (2, 5)
    lora_alpha: Annotated[float, Field(gt=0)] = 4.0
    lora_divisor: Positive | None = None
    video_lora_scaling: Annotated[float, Field(gt=0)] = 2.0
    video_num_heads: Positive | None = None
    padding: Literal["masked", "attended"] = "masked"
    llm_dtype: DType | None = None
    domain: str = "not stated"

    @property
    def rates(self) -> dict[Modality, tuple[int, ...]]:
        return {Modality.AUDIO: self.audio_rates, Modality.VIDEO: self.video_rates}


def model_config(
    state: Mapping[str, Tensor], config: ImportConfig, family: str, prompts: dict[Any, str]
) -> ModelConfig:
    """The settings of the model that ``state`` holds.

    Args:
        family: the LLM's ``model_type``; the authors add a padding token to all but Qwen.
        prompts: as they stand in the checkpoint.

    Raises:
        ValueError: the tensors are not those of such a model, or do not tell what has to be said then.
    """
    present = [m for m, part in ((Modality.AUDIO, AUDIO), (Modality.VIDEO, VIDEO)) if _any(state, part)]
    if not present:
        raise ValueError(f"{config.checkpoint} holds no model of Omni-AVSR: it has no encoder")
    projector, mode = _projectors(state, config, present)
    rows, hidden_size = state[EMBEDDINGS].shape
    pad_row = not family.startswith("qwen")
    num_rows = MarkerConfig("vocabulary", pad_row).num_rows
    audio_encoder = video_encoder = None
    if Modality.AUDIO in present:
        if config.audio_encoder is None:
            raise ValueError(f"{config.checkpoint} has an audio encoder; name its base model (audio_encoder=...)")
        audio_encoder = WhisperConfig(config.audio_encoder, context="full", length="published")
    if Modality.VIDEO in present:
        video_encoder = _video_encoder(state, config)
    return ModelConfig(
        llm=LLMConfig(config.llm, config.llm_dtype or _dtype(state[EMBEDDINGS])),
        audio_encoder=audio_encoder,
        video_encoder=video_encoder,
        compression=CompressionConfig(mode, "drop", config.audio_rates, config.video_rates),
        projector=projector,
        adapters=_adapters(state, config, hidden_size),
        markers=MarkerConfig("vocabulary", pad_row, rows - num_rows),
        prompts=prompts,
        waveform="layer_norm",
        padding=config.padding,
        search=PublishedSearch(),
    )


def _any(state: Mapping[str, Tensor], part: str) -> bool:
    return any(name.startswith(part) for name in state)


def _dtype(tensor: Tensor) -> DType:
    if tensor.dtype not in _DTYPES:
        raise ValueError(f"the embeddings are of dtype {tensor.dtype}, not of {', '.join(_DTYPES.values())}")
    return _DTYPES[tensor.dtype]


def _projectors(
    state: Mapping[str, Tensor], config: ImportConfig, present: list[Modality]
) -> tuple[ProjectorConfig, Literal["average", "stack"]]:
    layer_norm: dict[Modality, bool] = {}
    hidden: set[int] = set()
    sharing: set[Literal["per_rate", "shared"]] = set()
    modes: set[Literal["average", "stack"]] = set()
    for modality in present:
        found = projector_indices(state, modality)
        rates = config.rates[modality]
        per_rate = None not in found
        if per_rate and sorted(index for index in found if index is not None) != list(range(len(rates))):
            raise ValueError(
                f"{config.checkpoint} has {len(found)} {modality} projectors, but {modality}_rates names {list(rates)}"
            )
        width = _encoder_width(state, modality)
        for index, tensors in found.items():
            inputs = tensors["0.weight"].shape[1]
            rate = rates[0] if index is None else rates[index]
            if inputs not in (width, width * rate):
                raise ValueError(
                    f"a {modality} projector takes {inputs} values: neither the encoder's {width} nor {rate} times "
                    f"that; is {modality}_rates in the order of training?"
                )
            if rate > 1:
                modes.add("average" if inputs == width else "stack")
            hidden.add(tensors["0.weight"].shape[0])
            layer_norm[modality] = "3.weight" in tensors
        sharing.add("per_rate" if per_rate else "shared")
    if len(hidden) != 1 or len(sharing) != 1 or len(modes) > 1:
        raise ValueError(f"projectors differ in kind: hidden widths {hidden}, {sharing}, {modes}")
    norms = set(layer_norm.values())
    projector = ProjectorConfig(hidden.pop(), norms.pop() if len(norms) == 1 else layer_norm, sharing.pop())
    return projector, modes.pop() if modes else "average"


def _encoder_width(state: Mapping[str, Tensor], modality: Modality) -> int:
    name = (
        "audio_encoder.layer_norm.weight" if modality is Modality.AUDIO else "video_encoder.encoder.layer_norm.weight"
    )
    return state[name].shape[0]


def _adapters(state: Mapping[str, Tensor], config: ImportConfig, hidden_size: int) -> AdapterConfig:
    lora = lora_of(state, LLM)
    suffixes = lora_suffixes(list(lora))
    strategies: dict[bool, Literal["task_specific", "hybrid"]] = {False: "task_specific", True: "hybrid"}
    if suffixes == {""}:
        strategy: Literal["shared", "task_specific", "hybrid"] = "shared"
    elif suffixes & TASK_NAMES.keys() and "" not in suffixes:
        strategy = strategies["_shared" in suffixes]
    else:
        raise ValueError(f"{config.checkpoint} has LoRA sets {sorted(suffixes)}, which is none of S, T and ST")
    widths = {value.shape[0] for name, value in lora.items() if "lora_down" in name}
    if len(widths) != 1:
        raise ValueError(f"the LLM's LoRA has the widths {sorted(widths)}; one is expected")
    rank = widths.pop()
    divisor = config.lora_divisor or _divisor(hidden_size, rank)
    if round(hidden_size / divisor) != rank:
        raise ValueError(f"lora_divisor {divisor} gives {hidden_size} / {divisor}, but the LoRA is {rank} wide")
    return AdapterConfig(strategy, rank, rank * config.lora_alpha / divisor)


def _divisor(hidden_size: int, rank: int) -> int:
    fitting = [number for number in range(1, hidden_size + 1) if round(hidden_size / number) == rank]
    if len(fitting) != 1:
        raise ValueError(f"a LoRA {rank} wide fits the divisors {fitting}; say which it was (lora_divisor=...)")
    return fitting[0]


def _video_encoder(state: Mapping[str, Tensor], config: ImportConfig) -> AVHubertConfig:
    own = {name.removeprefix(VIDEO): value for name, value in state.items() if name.startswith(VIDEO)}
    sizes = sizes_of(rename_avhubert(own), str(config.checkpoint))
    num_heads = config.video_num_heads or _HEADS.get(sizes["dim"])
    if num_heads is None:
        raise ValueError(f"a video encoder {sizes['dim']} wide is neither Base nor Large; set video_num_heads")
    encoder = AVHubertConfig(config.video_encoder, num_heads=num_heads, **sizes)
    down = [value for name, value in lora_of(state, VIDEO).items() if "lora_down" in name]
    if not down:
        return encoder
    rank = down[0].shape[0]
    return replace(encoder, lora=LoRAConfig(rank, rank * config.video_lora_scaling))
