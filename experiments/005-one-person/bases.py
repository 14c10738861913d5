"""Train what EmbedLink starts from: BridgeFormers that meet the LLM's embeddings on the speaker the model knows.

    python experiments/005-one-person/bases.py PREPARED RUNS [--only NAME ...]

PREPARED: the folder that holds grid/manifest.jsonl. RUNS/<base>/checkpoint is made of each base, from experiment 001's
checkpoint with a new projector for sound. A killed run goes on; a finished one is not run again.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from omni_avsr.checkpoint import read_info
from omni_avsr.config import BridgeFormerConfig, from_mapping
from omni_avsr.data.config import DataConfig
from omni_avsr.data.manifest import read_manifest, write_manifest
from omni_avsr.run import RunConfig, run
from omni_avsr.stages import StageConfig
from omni_avsr.start import StartConfig

CHECKPOINT = Path(__file__).resolve().parents[1] / "001-grid-s1" / "checkpoint"
SEED = 7
STEPS = 600
"""Of 16 clips: 12 epochs. Like all numbers here ours, since the paper gives none."""
POOLED, UNPOOLED = BridgeFormerConfig(num_tokens=16), BridgeFormerConfig(num_tokens=None)
BASES: Mapping[str, tuple[BridgeFormerConfig, dict[str, Any]]] = {
    "pooled": (POOLED, {"targets": "pooled"}),
    "pooled-contrast": (POOLED, {"targets": "pooled", "contrast_weight": 1.0}),
    "heard": (UNPOOLED, {"targets": "heard"}),
    "heard-contrast": (UNPOOLED, {"targets": "heard", "contrast_weight": 1.0}),
}
"""Projector, and what EmbedLink compares: the paper's way first, then named variants of ours."""


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("prepared", type=Path)
    parser.add_argument("runs", type=Path)
    parser.add_argument("--only", nargs="*", default=list(BASES), choices=list(BASES), metavar="NAME")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name in options.only:
        run(base_config(name, options.prepared, options.runs / name))


def base_config(name: str, prepared: Path, output: Path) -> RunConfig:
    projector, objective = BASES[name]
    model = read_info(CHECKPOINT).model
    stage = {
        "objective": {"kind": "embed_link", **objective},
        "trainable": ["projectors.*"],
        "num_steps": STEPS,
        "optimizer": {"lr": 5.0e-4, "weight_decay": 0.01, "warmup_steps": 30, "clip_norm": 1.0},
        "batching": {"max_clips": 16, "max_frames": 2000},
        "augment": {"audio_mask_samples": 1600, "video_mask_frames": 0, "snr_db": []},
        "feature_variants": 2,
        "validate_every": 150,
    }
    return RunConfig(
        model=replace(model, projector=projector, video_encoder=None),
        data=DataConfig(manifests=(heard_manifest(prepared, output),), cache=output / "clips"),
        stages={"link": from_mapping(StageConfig, stage)},
        output=output,
        seed=SEED,
        trainer={"accelerator": "cpu"},
        loggers=("csv",),
        domain="commands of GRID, speaker s1, sound alone",
        start=StartConfig(CHECKPOINT, ("encoders.audio.*", "llm.*.shared.weight", "llm.*.asr.weight", "markers.*")),
    )


def heard_manifest(prepared: Path, output: Path) -> Path:
    """GRID's clips without their pictures, without word times too: those of one's own clips are not known either."""
    clips = read_manifest(prepared / "grid" / "manifest.jsonl")
    path = output / "heard.jsonl"
    write_manifest(path, [replace(clip, video=None, num_frames=0, words=()) for clip in clips])
    return path


if __name__ == "__main__":
    main()
