"""The authors' names of tensors to ours, one rule a part; a name that no rule knows is an error."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from torch import Tensor

from omni_avsr.encoders.avhubert_weights import rename as rename_avhubert
from omni_avsr.encoders.lora import NAME as ENCODER_LORA
from omni_avsr.types import Modality, Task

TASK_NAMES = {"audio": Task.ASR, "video": Task.VSR, "audiovisual": Task.AVSR}
"""What the authors call the tasks in the names of tensors."""

AUDIO, VIDEO, LLM = "audio_encoder.", "video_encoder.", "llm."
EMBEDDINGS, HEAD = "llm.model.embed_tokens.weight", "llm.lm_head.weight"
PROMPT = "prompt_"
DERIVED = "rotary_emb.inv_freq"
"""A buffer that follows from settings; older releases of transformers stored it."""

_PROJECTOR = re.compile(r"(audio|video)_proj\.(?:(\d+)\.)?(\d)\.(weight|bias)")
_LORA = re.compile(r"(.*\.self_attn)\.lora_(down|up)_([QV])(?:\.(audio|video|audiovisual)|(_shared))?\.weight")
_MATRIX = {"down": "lora_A", "up": "lora_B"}
_PROJECTION = {"Q": "q_proj", "V": "v_proj"}


def own_names(state: Mapping[str, Tensor], rates: Mapping[Modality, Sequence[int]]) -> dict[str, Tensor]:
    """Tensors by the names they have in ``OmniAVSR``. Prompts, embeddings and the output matrix are left out.

    Args:
        rates: of each modality, in the order of the authors' projectors.

    Raises:
        ValueError: naming every tensor that has no place.
    """
    adapted = {match[1] for name in state if (match := _LORA.fullmatch(name))}
    renamed: dict[str, Tensor] = {}
    unknown = []
    for name, value in state.items():
        if name.startswith((PROMPT, VIDEO)) or name in (EMBEDDINGS, HEAD) or name.endswith(DERIVED):
            continue
        if (new := _new_name(name, rates, adapted)) is None:
            unknown.append(name)
        else:
            renamed[new] = value
    if unknown:
        raise ValueError(f"{len(unknown)} tensors have no place here: {', '.join(sorted(unknown))}")
    return renamed | _video(state, adapted)


def lora_of(state: Mapping[str, Tensor], part: str) -> dict[str, Tensor]:
    """The LoRA matrices of a part (``VIDEO`` or ``LLM``), by official name."""
    return {name: value for name, value in state.items() if name.startswith(part) and _LORA.fullmatch(name)}


def lora_suffixes(names: Sequence[str]) -> set[str]:
    """Which sets there are among LoRA names: "" (the only one), a task's name, or "_shared"."""
    matches = [match for name in names if (match := _LORA.fullmatch(name))]
    return {match[4] or match[5] or "" for match in matches}


def projector_indices(state: Mapping[str, Tensor], modality: Modality) -> dict[int | None, dict[str, Tensor]]:
    """The projectors of a modality by their place in the list of rates (None: one for all), their tensors by name."""
    found: dict[int | None, dict[str, Tensor]] = {}
    for name, value in state.items():
        match = _PROJECTOR.fullmatch(name)
        if match and match[1] == modality:
            index = None if match[2] is None else int(match[2])
            found.setdefault(index, {})[f"{match[3]}.{match[4]}"] = value
    return found


def _new_name(name: str, rates: Mapping[Modality, Sequence[int]], adapted: set[str]) -> str | None:
    if match := _PROJECTOR.fullmatch(name):
        modality, index = Modality(match[1]), match[2]
        if index is not None and int(index) >= len(rates[modality]):
            return None
        key = "shared" if index is None else str(rates[modality][int(index)])
        return f"projectors.{modality}.by_rate.{key}.layers.{match[3]}.{match[4]}"
    if name.startswith(AUDIO):
        return f"encoders.audio.encoder.encoder.{name.removeprefix(AUDIO)}"
    if not name.startswith(LLM):
        return None
    if match := _LORA.fullmatch(name):
        adapter = TASK_NAMES[match[4]].value if match[4] else "shared"
        return f"{match[1]}.{_PROJECTION[match[3]]}.{_MATRIX[match[2]]}.{adapter}.weight"
    return _below_lora(name, adapted)


def _below_lora(name: str, adapted: set[str]) -> str:
    """peft keeps the layer that it adapts as ``base_layer``."""
    module, _, parameter = name.rpartition(".")
    attention, _, projection = module.rpartition(".")
    if attention in adapted and projection in _PROJECTION.values():
        return f"{module}.base_layer.{parameter}"
    return name


def _video(state: Mapping[str, Tensor], adapted: set[str]) -> dict[str, Tensor]:
    lora, rest = {}, {}
    for name, value in state.items():
        if not name.startswith(VIDEO):
            continue
        if match := _LORA.fullmatch(name):
            new = f"{match[1]}.{_PROJECTION[match[3]]}.{_MATRIX[match[2]]}.{ENCODER_LORA}.weight"
            lora[new.removeprefix(VIDEO)] = value
        else:
            rest[_below_lora(name, adapted).removeprefix(VIDEO)] = value
    renamed = rename_avhubert(rest) | rename_avhubert(lora)
    return {f"encoders.video.encoder.{name}": value for name, value in renamed.items()}
