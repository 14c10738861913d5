"""State dicts under the names of the authors' code, from models of this project, and what they should compute."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from helpers_llm import save_tiny_llm
from helpers_model import save_tiny_whisper
from torch import Tensor, nn
from transformers import AutoTokenizer

from omni_avsr.build import build_model
from omni_avsr.config import PUBLISHED_PROMPTS, AVHubertConfig, LoRAConfig, ModelConfig, from_mapping
from omni_avsr.model import OmniAVSR
from omni_avsr.published.names import TASK_NAMES
from omni_avsr.types import Modality, Task

VIDEO = AVHubertConfig(dim=32, num_layers=1, num_heads=2, ffn_dim=48, channels=(4, 4, 8, 8), lora=LoRAConfig(2, 4.0))
RATES = {Modality.AUDIO: (2, 5), Modality.VIDEO: (1, 3)}
PROMPTS = {task: prompt.rstrip(".") for task, prompt in PUBLISHED_PROMPTS.items()}
RANK, ALPHA, DIVISOR = 8, 4.0, 4

_OURS_TO_THEIRS = (
    (".attention_norm.", ".self_attn_layer_norm."),
    (".ffn_norm.", ".final_layer_norm."),
    ("project.", "feature_extractor_video.proj."),
    ("fuse.", "post_extract_proj."),
    ("fusion_norm.", "layer_norm."),
)


def published_model(folder: Path, family: str = "llama", **changes: Any) -> OmniAVSR:
    """A tiny random model whose settings are those that an import should find; LoRA matrices are not zero."""
    tokens = len(AutoTokenizer.from_pretrained(save_tiny_llm(folder / "llm", family)))
    values: dict[str, Any] = {
        "llm": {"weights": str(folder / "llm")},
        "audio_encoder": {
            "kind": "whisper",
            "weights": str(save_tiny_whisper(folder / "whisper")),
            "context": "full",
            "length": "published",
        },
        "compression": {"tail": "drop", "audio_rates": [2, 5], "video_rates": [1, 3]},
        "projector": {"hidden_dim": 24, "layer_norm": False},
        "adapters": {"strategy": "hybrid", "rank": RANK, "alpha": RANK * ALPHA / DIVISOR, "init": "normal"},
        "markers": {"place": "vocabulary", "pad_row": family == "llama", "vocab_size": tokens},
        "prompts": PROMPTS,
        "waveform": "layer_norm",
    }
    for name, change in changes.items():
        values[name] = {**values[name], **change} if isinstance(change, dict) else change
    config = replace(from_mapping(ModelConfig, values), video_encoder=VIDEO)
    model = build_model(config, seed=3)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if ".lora_" in name:
                value.copy_(0.3 * torch.randn(value.shape, generator=torch.Generator().manual_seed(len(name))))
        for module in model.encoders["video"].modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.add_(0.1)  # type: ignore[union-attr]
    return model.requires_grad_(False).eval()


def official_state(model: OmniAVSR) -> dict[str, Tensor]:
    """The tensors of ``model`` under the authors' names (written down here once more, apart from the importer)."""
    state: dict[str, Tensor] = {}
    stored = model.state_dict()
    for name, value in stored.items():
        if name.startswith("encoders.audio.encoder.encoder."):
            state[name.replace("encoders.audio.encoder.encoder.", "audio_encoder.")] = value
        elif name.startswith("encoders.video.encoder."):
            state.update(_video(name.removeprefix("encoders.video.encoder."), value))
        elif name.startswith("projectors."):
            _, modality, _, rate, _, layer, kind = name.split(".")
            index = "" if rate == "shared" else f"{RATES[Modality(modality)].index(int(rate))}."
            state[f"{modality}_proj.{index}{layer}.{kind}"] = value
        elif name.startswith("llm.model.layers.") or name == "llm.model.norm.weight":
            state[_llm_name(name)] = value
    vocab_size = model.config.markers.vocab_size
    state["llm.model.embed_tokens.weight"] = torch.cat(
        [stored["llm.model.embed_tokens.base.weight"][:vocab_size], stored["markers.weight"]]
    )
    state["llm.lm_head.weight"] = torch.cat(
        [stored["llm.lm_head.base.weight"][:vocab_size], stored["marker_outputs.weight"]]
    )
    for official, task in TASK_NAMES.items():
        ids = torch.tensor(model.text_ids.prompts[task])
        state[f"prompt_{official}"] = state["llm.model.embed_tokens.weight"][ids][None]
    state["video_encoder.mask_emb"] = torch.zeros(3)
    return state


def _llm_name(name: str) -> str:
    if ".lora_" not in name:
        return name.replace(".base_layer", "")
    attention, projection, matrix, adapter, _ = name.rsplit(".", 4)
    tasks = {task.value: official for official, task in TASK_NAMES.items()}
    direction = "down" if matrix == "lora_A" else "up"
    stem = f"{attention}.lora_{direction}_{projection[0].upper()}"
    return f"{stem}{'' if adapter not in tasks else '.' + tasks[adapter]}{'_shared' * (adapter == 'shared')}.weight"


def only_set(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The names of strategy S, whose only set the authors do not call shared."""
    return {name.replace("_shared.weight", ".weight"): value for name, value in state.items()}


def _video(name: str, value: Tensor) -> dict[str, Tensor]:
    prefix = "video_encoder."
    if ".lora_" in name:
        layer, projection, matrix, _, _ = name.rsplit(".", 4)
        direction = "down" if matrix == "lora_A" else "up"
        return {f"{prefix}encoder.{layer}.self_attn.lora_{direction}_{projection[0].upper()}.weight": value}
    name = name.replace(".base_layer", "")
    if name.startswith("resnet.stem."):
        new = name.replace("resnet.stem.", "feature_extractor_video.resnet.frontend3D.")
        return {prefix + new: value[:, None] if name.endswith("stem.0.weight") else value}
    if name.startswith("resnet.blocks."):
        number, rest = name.removeprefix("resnet.blocks.").split(".", 1)
        rest = rest.replace("norm1", "bn1").replace("norm2", "bn2").replace("shortcut", "downsample")
        stage, block = int(number) // 2 + 1, int(number) % 2
        return {f"{prefix}feature_extractor_video.resnet.trunk.layer{stage}.{block}.{rest}": value}
    for ours, theirs in _OURS_TO_THEIRS[2:]:
        if name.startswith(ours):
            return {prefix + theirs + name.removeprefix(ours): value}
    if name.startswith("position."):
        new = {"bias": "bias", "original0": "weight_g", "original1": "weight_v"}[name.rsplit(".", 1)[-1]]
        return {f"{prefix}encoder.pos_conv.0.{new}": value}
    if name.startswith("layers."):
        for ours, theirs in _OURS_TO_THEIRS[:2]:
            name = name.replace(ours, theirs)
        for projection in ("q_proj", "k_proj", "v_proj", "out_proj"):
            name = name.replace(f".{projection}.", f".self_attn.{projection}.")
        return {f"{prefix}encoder.{name}": value}
    assert name.startswith("norm.")
    return {f"{prefix}encoder.layer_norm.{name.removeprefix('norm.')}": value}


def settings_without_weights(folder: Path, target: Path) -> Path:
    """A copy of a base model's folder that has everything but the weights."""
    target.mkdir(parents=True)
    for file in folder.iterdir():
        if file.suffix != ".safetensors":
            (target / file.name).write_bytes(file.read_bytes())
    assert json.loads((target / "config.json").read_text())
    return target


def all_losses(model: OmniAVSR, batch: Any, rates: Any) -> dict[Task, float]:
    with torch.no_grad():
        output = model.loss(model.encode(batch.inputs), batch.texts, rates, dict.fromkeys(Task, 1.0), None)
    return {task: float(loss) for task, loss in output.task_losses.items()}
