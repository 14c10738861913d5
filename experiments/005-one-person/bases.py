"""Train what EmbedLink starts from: BridgeFormers that meet the LLM's embeddings on the speaker the model knows.

    python experiments/005-one-person/bases.py PREPARED RUNS [--only NAME ...]

PREPARED: the folder that holds grid/manifest.jsonl. RUNS/<base>/checkpoint is made of each base, from experiment 001's
checkpoint with a new projector for sound. A killed run goes on; a finished one is not run again.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
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
from omni_avsr.types import Clip, Task

CHECKPOINT = Path(__file__).resolve().parents[1] / "001-grid-s1" / "checkpoint"
SEED = 7
"""Like all numbers here ours, since the paper gives none."""
LINK_STEPS, READ_STEPS = 600, 100
POOLED, UNPOOLED = BridgeFormerConfig(num_tokens=16), BridgeFormerConfig(num_tokens=None)


@dataclass(frozen=True)
class Base:
    """A projector, and the stage that trains it or, from another base on, that lets the adapters read it."""

    projector: BridgeFormerConfig
    stage: Mapping[str, Any]
    start: str | None = None


def _stage(objective: Mapping[str, Any], trainable: str, lr: float, num_steps: int) -> dict[str, Any]:
    return {
        "objective": dict(objective),
        "trainable": [trainable],
        "num_steps": num_steps,
        "optimizer": {"lr": lr, "weight_decay": 0.01, "warmup_steps": num_steps // 20, "clip_norm": 1.0},
        "batching": {"max_clips": 16, "max_frames": 2000},
        "augment": {"audio_mask_samples": 1600, "video_mask_frames": 0, "snr_db": []},
        "feature_variants": 2,
        "validate_every": 150,
    }


def _link(**objective: Any) -> dict[str, Any]:
    return _stage({"kind": "embed_link", **objective}, "projectors.*", 5e-4, LINK_STEPS)


_READ = _stage({"kind": "recognition", "task_weights": {Task.ASR: 1.0}}, "llm.*lora_*", 3e-4, READ_STEPS)

BASES: Mapping[str, Base] = {
    "pooled": Base(POOLED, _link(targets="pooled")),
    "pooled-read": Base(POOLED, _READ, start="pooled"),
    "heard": Base(UNPOOLED, _link(targets="heard", contrast_weight=1.0)),
    "heard-read": Base(UNPOOLED, _READ, start="heard"),
}
"""pooled: the paper's way. Ours: heard, tokens that meet the word heard in them and no other one; and adapters that
learnt to read such tokens of s1."""


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("prepared", type=Path)
    parser.add_argument("runs", type=Path)
    parser.add_argument("--only", nargs="*", default=list(BASES), choices=list(BASES), metavar="NAME")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name in options.only:
        run(base_config(name, options.prepared, options.runs))


def base_config(name: str, prepared: Path, runs: Path) -> RunConfig:
    base, output = BASES[name], runs / name
    start = CHECKPOINT if base.start is None else runs / base.start / "checkpoint"
    manifest = output / "heard.jsonl"
    write_manifest(manifest, heard_clips(prepared))
    parts = ("encoders.audio.*", "llm.*.shared.weight", "llm.*.asr.weight", "markers.*")
    return RunConfig(
        model=replace(read_info(CHECKPOINT).model, projector=base.projector, video_encoder=None),
        data=DataConfig(manifests=(manifest,), cache=runs / "clips"),
        stages={"base": from_mapping(StageConfig, dict(base.stage))},
        output=output,
        seed=SEED,
        trainer={"accelerator": "cpu"},
        loggers=("csv",),
        domain="commands of GRID, speaker s1, sound alone",
        start=StartConfig(start, parts if base.start is None else (*parts, "projectors.audio.*")),
    )


def heard_clips(prepared: Path) -> list[Clip]:
    """GRID's clips without their pictures, without word times too: those of one's own clips are not known either."""
    clips = read_manifest(prepared / "grid" / "manifest.jsonl")
    return [replace(clip, video=None, num_frames=0, words=()) for clip in clips]


if __name__ == "__main__":
    main()
