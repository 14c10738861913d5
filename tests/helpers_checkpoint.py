"""Tiny trained models, their checkpoint folders, and a tiny corpus to transcribe and to score."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from helpers_model import tiny_batch, tiny_model
from torch import Tensor

from omni_avsr.checkpoint import save_checkpoint
from omni_avsr.config import PUBLISHED_TASK_WEIGHTS
from omni_avsr.data.manifest import write_manifest
from omni_avsr.media import write_audio, write_video
from omni_avsr.model import OmniAVSR
from omni_avsr.resume import trained_state
from omni_avsr.stages import freeze_all_but, set_modes
from omni_avsr.types import Batch, Clip, Rates, Task

RATES = Rates(2, 3)
ALL_NEW = ("encoders.video.*", "projectors.*", "markers.*", "llm.*lora_*")
TRAINING = {"domain": "ten made-up words", "seed": 3}


@torch.enable_grad()
def train(model: OmniAVSR, globs: Sequence[str] = ALL_NEW, num_steps: int = 2) -> dict[str, Tensor]:
    """A few real steps, so that weights and batch-norm statistics leave their start; returns what was trained."""
    freeze_all_but(model, globs)
    set_modes(model)
    optimizer = torch.optim.SGD((p for p in model.parameters() if p.requires_grad), lr=0.05)
    torch.manual_seed(0)
    for step in range(num_steps):
        batch, rates = tiny_batch(seed=step), Rates(2, 3) if step % 2 else Rates(5, 1)
        optimizer.zero_grad()
        features = model.encode(batch.inputs)
        weights = {task: PUBLISHED_TASK_WEIGHTS[task] for task in model.config.tasks}
        model.loss(features, batch.texts, rates, weights, batch.num_label_tokens).loss.backward()
        optimizer.step()
    trained = {name: value.clone() for name, value in trained_state(model).items()}
    model.eval()
    return trained


def save_tiny_checkpoint(folder: Path, dtype: torch.dtype | None = None, **settings: Any) -> OmniAVSR:
    """A trained tiny model, in ``folder / "checkpoint"`` with its base models beside it."""
    model = tiny_model(folder, **settings)
    globs = [glob for glob in ALL_NEW if model.config.video_encoder is not None or "video" not in glob]
    save_checkpoint(folder / "checkpoint", model, train(model, globs), TRAINING, dtype)
    return model


@torch.no_grad()
def outputs(model: OmniAVSR, batch: Batch) -> tuple[dict[Task, float], dict[Task, list[str]]]:
    """Loss and texts of every task that the model does."""
    features = model.encode(batch.inputs)
    weights = dict.fromkeys(model.config.tasks, 1.0)
    losses = model.loss(features, batch.texts, RATES, weights, batch.num_label_tokens).task_losses
    texts = {task: model.generate(features, task, RATES, max_new_tokens=8) for task in model.config.tasks}
    return {task: float(loss) for task, loss in losses.items()}, texts


def random_audio(num_frames: int, seed: int) -> np.ndarray:
    return 0.1 * np.random.default_rng(seed).standard_normal(640 * num_frames)


def random_video(num_frames: int, seed: int, size: int = 96) -> np.ndarray:
    small = np.random.default_rng(seed).integers(0, 256, (num_frames, size // 24, size // 24), dtype=np.uint8)
    return small.repeat(24, 1).repeat(24, 2)


def write_test_set(folder: Path) -> Path:
    """Seven clips of split "test": five with sound and picture, one of sound alone, one whose video is corrupt.

    Beside them a clip of another split, and noise.wav. Returns the manifest.
    """
    folder.mkdir(parents=True)
    clips = []
    for number, (name, text, frames) in enumerate(
        [
            ("a1", "bin blue", 9),
            ("a2", "set red", 5),
            ("a3", "bin blue", 7),
            ("b1", "lay green now", 12),
            ("b2", "place white", 6),
            ("corrupt", "bin red", 8),
            ("sound", "set blue", 10),
            ("train1", "bin blue", 6),
        ]
    ):
        audio, video = folder / f"{name}.wav", folder / f"{name}.mp4"
        write_audio(audio, random_audio(frames, number))
        write_video(video, random_video(frames, number), lossless=True)
        seen = name != "sound"
        split = "train" if name == "train1" else "test"
        clips.append(
            Clip(name, text, split, frames / 25, audio, video if seen else None, frames if seen else 0, speaker="s1")
        )
    (folder / "corrupt.mp4").write_bytes(b"this is no video")
    write_manifest(folder / "manifest.jsonl", clips)
    write_audio(folder / "noise.wav", random_audio(100, 99))
    return folder / "manifest.jsonl"


def write_muxed(path: Path, samples: np.ndarray, frames: np.ndarray) -> None:
    """Sound and pictures in one Matroska file: grey ones [T, H, W] without loss, colours [T, H, W, 3] almost so."""
    grey = frames.ndim == 3
    with av.open(str(path), "w", format="matroska") as container:
        video: Any = container.add_stream("ffv1" if grey else "libx264", rate=Fraction(25))
        video.height, video.width, video.pix_fmt = *frames.shape[1:3], "gray" if grey else "yuv420p"
        if not grey:
            video.options = {"crf": "10", "preset": "ultrafast"}
        audio: Any = container.add_stream("pcm_s16le", rate=16_000, layout="mono")
        for pixels in frames:
            container.mux(video.encode(av.VideoFrame.from_ndarray(pixels, format="gray" if grey else "rgb24")))
        container.mux(video.encode(None))
        integers = np.round(samples * 2**15).astype(np.int16)
        frame = av.AudioFrame.from_ndarray(integers[None], format="s16", layout="mono")
        frame.sample_rate, frame.pts = 16_000, 0
        container.mux(audio.encode(frame))
        container.mux(audio.encode(None))
