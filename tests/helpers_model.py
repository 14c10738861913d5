"""Tiny random OmniAVSR models, batches for them, and a tiny prepared corpus with settings to train on it."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from helpers_llm import save_tiny_llm
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoConfig, AutoModel, PreTrainedModel, Wav2Vec2FeatureExtractor, WhisperConfig, WhisperModel

from omni_avsr.build import build_model
from omni_avsr.config import ModelConfig, from_mapping
from omni_avsr.data.manifest import write_manifest
from omni_avsr.media import write_audio, write_video
from omni_avsr.model import OmniAVSR
from omni_avsr.run import RunConfig
from omni_avsr.types import Batch, Clip, Features, Modality, Task, Word

AUDIO_ENCODERS = ("whisper_full", "whisper_trimmed", "compact_audio")
SELF_SUPERVISED = ("wav2vec2", "hubert", "wavlm")
RATES = {"audio_rates": [2, 5], "video_rates": [1, 3]}
FRAMES = (9, 4, 7)
"""Video frames of the clips of ``tiny_batch``, so that every batch has padding, at either rate."""
TEXTS = ("bin blue", "a", "set it")
SIZE = 96


def save_tiny_whisper(folder: Path, num_layers: int = 1) -> Path:
    """A random Whisper of width 16 with room for 0.6 s, as transformers saves it."""
    config = WhisperConfig(
        d_model=16,
        encoder_layers=num_layers,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        max_source_positions=30,
        vocab_size=20,
        pad_token_id=0,
        bos_token_id=0,
        eos_token_id=0,
        decoder_start_token_id=1,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        WhisperModel(config).save_pretrained(folder)
    return folder


def tiny_self_supervised(kind: str, **settings: Any) -> PreTrainedModel:
    """A random model of width 16 with the front end of the released ones, in eval mode.

    Its weights are larger than transformers would start them, so that every part shows in the features.
    """
    sizes: dict[str, Any] = {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "conv_dim": [8] * 7,
        "num_conv_pos_embeddings": 8,
        "num_conv_pos_embedding_groups": 2,
        "vocab_size": 20,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModel.from_config(AutoConfig.for_model(kind, **(sizes | settings)))
        for parameter in model.parameters():
            parameter.data += 0.2 * torch.randn_like(parameter)
    return model.eval()


def save_tiny_self_supervised(folder: Path, kind: str, normalize: bool = True, **settings: Any) -> PreTrainedModel:
    """Save ``tiny_self_supervised`` as transformers does, with its preprocessor_config.json."""
    model = tiny_self_supervised(kind, **settings)
    model.save_pretrained(folder)
    Wav2Vec2FeatureExtractor(do_normalize=normalize).save_pretrained(folder)
    return model


def model_values(folder: Path, audio: str = "compact_audio", family: str = "llama", **changes: Any) -> dict[str, Any]:
    """Settings of a tiny model, as a config file would hold them; what it is built upon is saved under ``folder``."""
    llm, whisper = folder / f"llm-{family}", folder / "whisper"
    if not llm.is_dir():
        save_tiny_llm(llm, family)
    trunk = {"dim": 16, "num_layers": 1, "num_heads": 2, "kernel": 3}
    audio_encoder: dict[str, Any] = {"kind": audio, **trunk}
    if audio.startswith("whisper"):
        if not whisper.is_dir():
            save_tiny_whisper(whisper)
        audio_encoder = {"kind": "whisper", "weights": str(whisper), "context": audio.removeprefix("whisper_")}
    elif audio in SELF_SUPERVISED:
        if not (folder / audio).is_dir():
            save_tiny_self_supervised(folder / audio, audio)
        audio_encoder = {"kind": audio, "weights": str(folder / audio)}
    values: dict[str, Any] = {
        "llm": {"weights": str(llm)},
        "audio_encoder": audio_encoder,
        "video_encoder": {"kind": "compact_video", "channels": [2, 4], "image_size": 16, **trunk},
        "compression": dict(RATES),
        "projector": {"hidden_dim": 16},
        "adapters": {"strategy": "hybrid", "rank": 2, "alpha": 4.0},
        "prompts": {"asr": "hear", "vsr": "see it", "avsr": "do both"},
    }
    for key, change in changes.items():
        values[key] = {**values[key], **change} if isinstance(change, dict) else change
    return values


def tiny_model(folder: Path, **settings: Any) -> OmniAVSR:
    """A tiny model in eval mode. Its adapters' B are random, as after training: zeros would hide what routes do."""
    model = build_model(from_mapping(ModelConfig, model_values(folder, **settings)), seed=1)
    generator = torch.Generator().manual_seed(2)
    for name, parameter in model.named_parameters():
        if ".lora_B." in name:
            parameter.data.normal_(std=0.3, generator=generator)
    return model.eval()


def tiny_batch(seed: int = 0, frames: tuple[int, ...] = FRAMES, texts: tuple[str, ...] = TEXTS) -> Batch:
    """Random clips of unequal lengths; what stands behind them is not zero, so that any use of it shows."""
    generator = torch.Generator().manual_seed(seed)
    waveforms = [0.1 * torch.randn(640 * count - 50, generator=generator) for count in frames]
    videos = [row - 1 + torch.randn(count, 24, 24, generator=generator) for row, count in enumerate(frames)]
    clips = tuple(
        Clip(str(number), text, "train", count / 25, Path("a"), Path("v"), count)
        for number, (count, text) in enumerate(zip(frames, texts, strict=True))
    )
    inputs = {Modality.AUDIO: _dirty(waveforms), Modality.VIDEO: _dirty(videos)}
    labels = dict.fromkeys(Task, sum(len(text) + 1 for text in texts))
    return Batch(clips, inputs, labels, len(clips))


def _dirty(rows: list[Tensor]) -> Features:
    padded = Features.pad(rows)
    mask = padded.mask().view(*padded.mask().shape, *[1] * (padded.values.ndim - 2))
    return Features(padded.values.masked_fill(~mask, 3.0), padded.lengths)


def single(batch: Batch, row: int) -> Batch:
    """One clip of a batch alone, without padding, as its share of the same global batch."""
    inputs = {
        modality: Features(part.values[row : row + 1, : int(part.lengths[row])], part.lengths[row : row + 1])
        for modality, part in batch.inputs.items()
    }
    return replace(batch, clips=batch.clips[row : row + 1], inputs=inputs)


def write_corpus(folder: Path, num_train: int = 10, num_validation: int = 2) -> Path:
    """Short clips with sound, picture and word times, and a noise file; returns the manifest."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    clips = []
    for number in range(num_train + num_validation):
        frames = 5 + number * 3 % 7
        audio, video = folder / f"{number}.wav", folder / f"{number}.mp4"
        write_audio(audio, 0.1 * random.standard_normal(frames * 640))
        pixels = random.integers(0, 256, (frames, SIZE // 24, SIZE // 24), dtype=np.uint8)
        write_video(video, pixels.repeat(24, 1).repeat(24, 2), lossless=True)
        first, second = "ab"[number % 2], "cdef"[number % 4]
        half = frames / 50
        clips.append(
            Clip(
                id=f"clip{number}",
                text=f"{first} {second}",
                split="train" if number < num_train else "validation",
                seconds=frames / 25,
                audio=audio,
                video=video,
                num_frames=frames,
                words=(Word(first, 0.0, half), Word(second, half, 2 * half)),
            )
        )
    write_manifest(folder / "manifest.jsonl", clips)
    write_audio(folder / "noise.wav", 0.1 * random.standard_normal(8000))
    return folder / "manifest.jsonl"


AUGMENT = {"flip": 0.5, "video_mask_frames": 2, "audio_mask_samples": 300, "snr_db": [0.0, 10.0, None]}
OPTIMIZER = {"lr": 5e-3, "warmup_steps": 2}
BATCHING = {"max_clips": 2, "max_frames": 40}


def stage_values(kind: str, num_steps: int, accumulation: int = 1, **changes: Any) -> dict[str, Any]:
    """Settings of a stage: video_ctc and audio_ctc train an encoder alone; projector and joint go through the LLM."""
    ctc = {"kind": "ctc", "modality": kind.removesuffix("_ctc")}
    objective, trainable = {
        "video_ctc": (ctc | {"frame_targets": {"words": 1.0}, "mixup": {"share": 0.5}}, ["encoders.video.*"]),
        "audio_ctc": (ctc, ["encoders.audio.*"]),
        "projector": ({"kind": "recognition"}, ["projectors.*", "markers.*"]),
        "joint": ({"kind": "recognition"}, ["projectors.*", "markers.*", "llm.*lora_*"]),
    }[kind]
    return {
        "objective": objective,
        "trainable": trainable,
        "num_steps": num_steps,
        "optimizer": dict(OPTIMIZER),
        "batching": BATCHING | {"accumulation": accumulation},
        "augment": dict(AUGMENT),
        "validate_every": 1000,
    } | changes


STAGES = ("video_ctc", "audio_ctc", "projector", "joint")


def all_stages(**changes: Any) -> dict[str, Any]:
    """Two steps of every kind of stage, by its kind."""
    return {kind: stage_values(kind, 2, validate_every=2, **changes) for kind in STAGES}


def run_values(folder: Path, output: Path, stages: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """Settings of a run on ``write_corpus(folder / "corpus")``, as plain values that JSON can hold."""
    corpus = folder / "corpus"
    return {
        "model": model_values(folder),
        "data": {
            "manifests": [str(corpus / "manifest.jsonl")],
            "cache": str(folder / "cache"),
            "noise": str(corpus / "noise.wav"),
        },
        "stages": stages,
        "output": str(output),
        "trainer": {"accelerator": "cpu"},
        "loggers": ["csv"],
        "log_every": 1,
        "max_label_tokens": 8,
    } | changes


def write_configs(folder: Path, values: dict) -> list[str]:
    """The settings as Hydra groups of their own; returns the arguments that choose them. JSON is YAML, too."""
    arguments = [f"--config-dir={folder}"]
    for group in ("model", "data", "stages", "trainer"):
        (folder / group).mkdir(parents=True)
        (folder / group / "tiny.yaml").write_text(json.dumps(values[group]))
        arguments.append(f"{group}=tiny")
    return [
        *arguments,
        *(f"{key}={values[key]}" for key in ("output", "log_every")),
        "max_label_tokens=8",
        "loggers=[csv]",
    ]


def run_config(folder: Path, output: Path, stages: dict[str, Any], **changes: Any) -> RunConfig:
    return from_mapping(RunConfig, run_values(folder, output, stages, **changes), "train")


def stage_tensors(output: Path) -> dict[str, dict[str, Tensor]]:
    """What every finished stage of a run trained."""
    return {path.parent.name: load_file(path) for path in sorted(output.glob("stages/*/trained.safetensors"))}
