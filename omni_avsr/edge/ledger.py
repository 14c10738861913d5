"""The memory ledger: what a model takes in a process, byte by byte of its parts, before anything is loaded.

A process holds libraries and weights all the time. Beside them come, one after another, what reading the weights takes,
what each encoder holds of a batch, and what the language model holds of its prompt and then of each new token; the peak
is that of the fullest of these stages. Sizes are counted on a model without values. What no size tells, a device is
asked for once: ``MemoryConstants``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Annotated, Any, Literal, get_args

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass as settings

from omni_avsr.adapters import LORA, adapter_names
from omni_avsr.config import STRICT, AVHubertConfig, DType, LLMConfig, ModelConfig, Quantization
from omni_avsr.edge.encoder_memory import FLOAT32, encoder_activations
from omni_avsr.edge.llm_memory import LLMSizes, llm_sizes_of
from omni_avsr.edge.request import Lengths, Request, lengths_in
from omni_avsr.encoders.access import encoder_of
from omni_avsr.features import MOUTH_CROP, MOUTH_SIZE
from omni_avsr.model import OmniAVSR
from omni_avsr.shapes import shaped_model
from omni_avsr.types import Modality

Part = Literal[
    "libraries",
    "audio_encoder",
    "video_encoder",
    "llm",
    "embeddings",
    "adapters",
    "projectors",
    "inputs",
    "features",
    "kv_cache",
    "activations",
    "graph",
    "gradients",
    "optimizer",
    "overhead",
]
"""``adapters`` are all LoRA, ``projectors`` have the markers with them, CTC heads count as their encoder's. ``graph``
is what forward passes keep for the backward one."""
Stage = Literal[
    "reading encoders", "reading", "encoding audio", "encoding video", "prompt", "tokens", "training", "update"
]
Bytes = Mapping[Part, int]
WeightFormat = Literal["float32", "bfloat16", "int8", "nf4"]
WEIGHT_FORMATS: tuple[WeightFormat, ...] = get_args(WeightFormat)
"""Of an LLM's frozen weights, from the gentlest to the smallest."""

_SLAB = 1 << 20
"""Numbers that are read, or brought from 8 or 4 bits to floats, at once."""
_STORED_ITEMSIZE = 2


@settings(frozen=True, config=STRICT)
class MemoryConstants:
    """What a device and its libraries add.

    libraries: bytes of the process before it reads a model. overhead: bytes beside what is counted, or less than
    that: thread pools, kernels, buffers of media. scale: bytes that the allocator holds for each byte of activations.
    """

    libraries: Annotated[int, Field(ge=0)]
    overhead: int
    scale: Annotated[float, Field(gt=0)]


@dataclass(frozen=True)
class Memory:
    """Bytes by part at each stage."""

    stages: Mapping[Stage, Bytes]

    @property
    def fullest(self) -> Stage:
        return max(self.stages, key=lambda stage: sum(self.stages[stage].values()))

    @property
    def parts(self) -> Bytes:
        """Of the fullest stage."""
        return self.stages[self.fullest]

    @property
    def peak(self) -> int:
        return sum(self.parts.values())


@dataclass(frozen=True)
class MemoryLedger:
    """What a model takes, by ``memory_ledger``.

    dtype: of the LLM's activations and of its weights that are not quantised. weights: bytes by part, with buffers, as
    they are read and trained.
    mapped: bytes of an encoder's file while it is brought to another dtype; stored: of the
    largest piece of the checkpoint that is read at once.
    """

    model: OmniAVSR
    llm: LLMSizes
    dtype: DType
    quantization: Quantization | None
    weights: Bytes
    mapped: int
    stored: int

    @property
    def weight_format(self) -> str:
        """What the LLM's weights are kept in."""
        return self.quantization or self.dtype

    @cached_property
    def adapters_in_use(self) -> int:
        """Bytes of all LoRA when nothing is trained: beside quantised weights, the LLM's is in its dtype."""
        lora = [(name, value) for name, value in self.model.named_parameters() if _part(name) == "adapters"]
        narrow = torch_dtype(self.dtype).itemsize if self.quantization is not None else FLOAT32
        return sum(value.numel() * narrow if name.startswith("llm.") else value.nbytes for name, value in lora)

    def transcribing(self, request: Request, constants: MemoryConstants) -> Memory:
        """The memory of a process that loads the model and answers a request.

        Raises:
            ValueError: as of ``lengths_in``.
        """
        lengths = lengths_in(self.model, request)
        held = self.held(constants) | {"adapters": self.adapters_in_use}
        stages = self.reading(constants)
        recordings = {m: request.batch_size * _recorded(m, int(n.max())) for m, n in lengths.inputs.items()}
        inputs = {m: request.batch_size * _prepared(m, int(n.max())) for m, n in lengths.inputs.items()}
        given = held | {"inputs": sum(recordings.values()) + sum(inputs.values())}
        features = 0
        for modality, samples in lengths.inputs.items():
            activations = encoder_activations(encoder_of(self.model, modality), samples)
            stage: Stage = "encoding audio" if modality is Modality.AUDIO else "encoding video"
            stages[stage] = given | {
                "features": features,
                "activations": round(constants.scale * activations),
            }
            features += self._features(modality, request, lengths)
        given = held | {"inputs": sum(recordings.values()), "features": features}
        dtype = torch_dtype(self.dtype)
        rows, beams = request.batch_size * request.num_beams, request.num_beams
        prompt, written = lengths.prompt, lengths.prompt + request.new_tokens - 1
        logits = self.llm.logit_bytes(rows, beams, dtype)
        # A prompt is read once, however many beams go on from it.
        of_prompt = self.llm.pass_bytes(request.batch_size * prompt, dtype)
        of_prompt += self.llm.logit_bytes(request.batch_size, 1, dtype)
        stages["prompt"] = given | {
            "kv_cache": self.llm.cache_bytes(request.batch_size * prompt, dtype),
            "activations": round(constants.scale * of_prompt),
        }
        stages["tokens"] = given | {
            "kv_cache": self.llm.cache_bytes(rows * written, dtype),
            "activations": round(constants.scale * (logits + self.llm.pass_bytes(rows, dtype))),
        }
        return Memory(stages)

    def reading(self, constants: MemoryConstants) -> dict[Stage, Bytes]:
        """What reading the weights takes, the language model's after the encoders'."""
        held = self.held(constants)
        early: tuple[Part, ...] = ("libraries", "overhead", "audio_encoder", "video_encoder")
        encoders = {part: held[part] for part in early if part in held}
        return {
            "reading encoders": encoders | {"activations": self.mapped + _SLAB * FLOAT32},
            "reading": held | {"activations": self.stored + _SLAB * FLOAT32},
        }

    def held(self, constants: MemoryConstants) -> dict[Part, int]:
        """What is there all the time."""
        return {"libraries": constants.libraries, **self.weights, "overhead": constants.overhead}

    def _features(self, modality: Modality, request: Request, lengths: Lengths) -> int:
        return request.batch_size * lengths.features[modality] * encoder_of(self.model, modality).output_dim * FLOAT32


def planned_memory(config: ModelConfig, llm_shape: Mapping[str, Any] | None = None) -> MemoryLedger:
    """The ledger of a model that is not there, from its settings and the sizes of its base models.

    Args:
        llm_shape: sizes of an LLM that is not in ``shapes.LLM_SHAPES``.

    Raises:
        ValueError: the sizes of a base model are not known, or a part of the model is not described here.
    """
    plain = replace(config, llm=replace(config.llm, quantization=None))
    return memory_ledger(shaped_model(plain, 0, "meta", llm_shape), config.llm.dtype, config.llm.quantization)


def memory_ledger(
    model: OmniAVSR, dtype: DType | None = None, quantization: Quantization | None = None
) -> MemoryLedger:
    """The ledger of ``model``, which needs no values (``shapes.shaped_model`` on the device meta), nor is quantised.

    Args:
        dtype: of the LLM, another one than its settings say.
        quantization: of the LLM's matrices.

    Raises:
        ValueError: a part of the model is not described here.
    """
    name, llm = dtype or model.config.llm.dtype, llm_sizes_of(model.llm)
    kind = torch_dtype(name)
    weights: dict[Part, int] = {"llm": llm.weight_bytes(kind, quantization)}
    weights["embeddings"] = llm.table_bytes(kind, quantization)
    for tensor, value in (*model.named_parameters(), *model.named_buffers()):
        part = _part(tensor)
        if part is not None:
            weights[part] = weights.get(part, 0) + value.nbytes
    return MemoryLedger(model, llm, name, quantization, weights, _mapped(model), _stored(model))


def in_format(name: WeightFormat, config: LLMConfig) -> tuple[DType, Quantization | None]:
    """The settings that keep an LLM's weights so. Beside quantised ones the rest is in 16 bits."""
    if name == "float32" or name == "bfloat16":
        return name, None
    return "float16" if config.dtype == "float16" else "bfloat16", name


def _mapped(model: OmniAVSR) -> int:
    """AV-HuBERT's checkpoint is a pickle in float32, which is mapped; files of safetensors are read piece by piece."""
    video = model.config.video_encoder
    if not isinstance(video, AVHubertConfig) or video.weights is None or video.dtype == "float32":
        return 0
    return FLOAT32 * sum(value.numel() for value in encoder_of(model, Modality.VIDEO).encoder.parameters())


def _stored(model: OmniAVSR) -> int:
    """The largest of a checkpoint's own pieces, which are read one by one, as large as they are by default.

    The LLM's adapters are read set by set, all else tensor by tensor.
    """
    bases = tuple(model.config.base_weights)
    own = [value.numel() for name, value in model.named_parameters() if not name.startswith(bases)]
    sets = len(adapter_names(model.config.adapters, model.config.tasks))
    adapters = sum(value.numel() for name, value in model.llm.named_parameters() if LORA in name)
    return _STORED_ITEMSIZE * max(adapters // sets, *own)


def torch_dtype(name: DType) -> torch.dtype:
    dtype: torch.dtype = getattr(torch, name)
    return dtype


def _part(name: str) -> Part | None:
    """Of a tensor; None for the LLM's own."""
    if LORA in name:
        return "adapters"
    if name.startswith("encoders."):
        return "audio_encoder" if name.split(".")[1] == Modality.AUDIO else "video_encoder"
    return None if name.startswith("llm.") else "projectors"


def _recorded(modality: Modality, length: int) -> int:
    """Bytes of a clip as it was read: float32 samples, or crops in grey."""
    return length * (FLOAT32 if modality is Modality.AUDIO else MOUTH_SIZE**2)


def _prepared(modality: Modality, length: int) -> int:
    """Bytes of a clip as an encoder reads it."""
    return length * FLOAT32 * (1 if modality is Modality.AUDIO else MOUTH_CROP**2)
