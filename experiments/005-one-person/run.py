"""Enrol eight talkers of Lombard GRID by every method and score them along the way; what has a line is not run again.

    python experiments/005-one-person/run.py PREPARED RUNS [--only GLOB ...] [--processes 2]

PREPARED: the folder that holds grid/ and lombard/, each with a manifest.jsonl. RUNS: what bases.py made, and where runs
go. results/<arm>.jsonl beside this script gets a line for each point: what it took and what was written, on the
talker's test clips and on the speaker that the model knew before.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatchcase
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from arms import GRID, INSTRUCTION, METHODS, SEED, Arm, arms
from arms import POOLED as POOLED_TARGETS
from bases import CHECKPOINT, POOLED, heard_clips

from omni_avsr.checkpoint import load_checkpoint, read_info, stored_tensors
from omni_avsr.config import ModelConfig, from_mapping
from omni_avsr.data.config import DataConfig
from omni_avsr.data.dataset import FileReader
from omni_avsr.data.manifest import read_manifest, write_manifest
from omni_avsr.edge.budget import Profile, process_bytes
from omni_avsr.edge.meter import GIB
from omni_avsr.features import prepare_waveform
from omni_avsr.files import write_atomically
from omni_avsr.further import run_further
from omni_avsr.model import OmniAVSR
from omni_avsr.objectives.embed_link import EmbedLinkObjective
from omni_avsr.provenance import commit, today
from omni_avsr.run import RECORD, RunConfig
from omni_avsr.side_by_side import run_side_by_side
from omni_avsr.stages import EmbedLinkObjectiveConfig, StageConfig
from omni_avsr.start import StartConfig
from omni_avsr.types import Batch, Clip, Features, Modality, Rates, Task

RESULTS = Path(__file__).resolve().parent / "results"
RATES = Rates(4, 2)
NUM_KNOWN = 40
"""Test clips of the speaker that the model knew before."""
BATCH_SIZE = 20
MAX_NEW_TOKENS = 16
BOARD_GIB = 8.0


@dataclass(frozen=True)
class Folders:
    """prepared: data. runs: where runs go, and where bases are. results: where lines go."""

    prepared: Path
    runs: Path
    results: Path = RESULTS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("prepared", type=Path)
    parser.add_argument("runs", type=Path)
    parser.add_argument("--only", nargs="*", default=["*"], metavar="GLOB", help="arms to run (all)")
    parser.add_argument("--processes", type=int, default=2, help="arms side by side, one thread each (2)")
    options = parser.parse_args()
    folders = Folders(options.prepared, options.runs)
    chosen = [arm for arm in arms() if any(fnmatchcase(arm.name, glob) for glob in options.only)]
    todo = [arm for arm in chosen if missing(arm, folders)]
    work = partial(train_and_score, folders=folders)
    run_side_by_side(work, {arm.name: arm for arm in todo}, folders.runs, options.processes)
    if failed := [arm.name for arm in todo if missing(arm, folders)]:
        sys.exit(f"failed, for the reasons in {options.runs}/*.log: {', '.join(failed)}")


def points(arm: Arm) -> tuple[int, ...]:
    return (0,) if arm.method is None else METHODS[arm.method].points


def missing(arm: Arm, folders: Folders) -> list[int]:
    """The points that have no line yet."""
    path = folders.results / f"{arm.name}.jsonl"
    done = {json.loads(line)["steps"] for line in path.read_text().splitlines()} if path.is_file() else set()
    return [steps for steps in points(arm) if steps not in done]


def train_and_score(arm: Arm, folders: Folders) -> None:
    """Train to each point that is missing, score there, and go on from there."""
    path = folders.results / f"{arm.name}.jsonl"
    for steps in missing(arm, folders):
        facts: dict[str, Any] = {}
        checkpoint = base_checkpoint(arm.base, folders)
        if arm.method is not None:
            config = run_config(arm, steps, folders)
            run_further(config)
            facts = training_facts(config)
            checkpoint = config.output / "checkpoint"
        line = {
            **asdict(arm),
            "arm": arm.name,
            "steps": steps,
            "commit": commit(),
            "date": today(),
            "seed": SEED,
            **facts,
            "hypotheses": written(arm, checkpoint, folders),
        }
        before = path.read_text() if path.is_file() else ""
        write_atomically(path, f"{before}{json.dumps(line)}\n")


def base_checkpoint(base: str, folders: Folders) -> Path:
    return CHECKPOINT if base == GRID else folders.runs / base / "checkpoint"


def run_config(arm: Arm, steps: int, folders: Folders) -> RunConfig:
    """The arm's run up to one point."""
    assert arm.method is not None, "a base alone is not trained"
    method, output = METHODS[arm.method], folders.runs / arm.name
    base = base_checkpoint(arm.base, folders)
    stages = {name: from_mapping(StageConfig, dict(values)) for name, values in method.stages.items()}
    *_, last = stages
    stages[last] = replace(stages[last], num_steps=steps)
    manifest = output / "enrolled.jsonl"
    write_manifest(manifest, clips_of(arm.talker, "train", folders))
    model = heard(read_info(base).model)
    return RunConfig(
        model=replace(model, projector=POOLED) if method.new_projector else model,
        data=DataConfig(
            manifests=(manifest,), cache=folders.runs / "clips", validation_split="train", max_validation_clips=1
        ),
        stages=stages,
        output=output,
        seed=SEED,
        trainer={"accelerator": "cpu"},
        loggers=("csv",),
        start=StartConfig(base, start_parts(base, method.new_projector)),
        checkpoint_dtype="float32",
        profile=Profile(process_gib=process_bytes(BOARD_GIB) / GIB),
    )


def heard(model: ModelConfig) -> ModelConfig:
    """Lombard GRID has no pictures."""
    return replace(model, video_encoder=None)


def start_parts(base: Path, new_projector: bool) -> tuple[str, ...]:
    """Globs over what a model for ASR has of a base."""
    wanted = ("encoders.audio.*", "markers.*", "llm.*.shared.weight", "llm.*.asr.weight")
    names = stored_tensors(base)
    audio = [] if new_projector else ["projectors.audio.*"]
    return tuple(glob for glob in (*wanted, *audio) if any(fnmatchcase(name, glob) for name in names))


def training_facts(config: RunConfig) -> dict[str, Any]:
    """Seconds and FLOPs of all stages, and seconds of a step of the last."""
    folders = [config.output / "stages" / f"{number}-{name}" for number, name in enumerate(config.stages)]
    records = [json.loads((folder / RECORD).read_text()) for folder in folders]
    return {
        "seconds_by_stage": [record["seconds"] for record in records],
        "steps_by_stage": [record["steps"] for record in records],
        "flops_by_stage": [sum(sum(way.values()) for way in record["flops"].values()) for record in records],
        "num_trainable": [record["num_trainable"] for record in records],
    }


def clips_of(talker: str, split: str, folders: Folders) -> list[Clip]:
    clips = read_manifest(folders.prepared / "lombard" / "manifest.jsonl")
    return [clip for clip in clips if (clip.speaker, clip.split) == (talker, split)]


@torch.no_grad()
def written(arm: Arm, checkpoint: Path, folders: Folders) -> list[Mapping[str, Any]]:
    """Transcripts on the talker's test clips and on the known speaker's, by the model's prompt and by the instruction.

    The prompt is what the adapters were trained with; none, and an instruction, tell what Tiny-Align's injection does.
    """
    model = load_checkpoint(checkpoint)
    rows: list[Mapping[str, Any]] = []
    for name, (clips, features) in encoded_sets(arm.talker, folders).items():
        for prompt in ("own", "none", "instruction") if name == "talker" else ("own",):
            prompted(model, prompt)
            texts = [text for part in features for text in model.generate(part, Task.ASR, RATES, 1, MAX_NEW_TOKENS)]
            rows.append(row_of(name, prompt, clips, texts))
        if name == "talker" and is_linked(arm):
            link = EmbedLinkObjective(from_mapping(EmbedLinkObjectiveConfig, POOLED_TARGETS), SEED)
            batches = [Batch((), {}, {}, 1, 0, part) for part in features]
            texts = [text for batch in batches for text in link.transcribe(model, batch)["nearest_audio"]]
            rows.append(row_of(name, "nearest", clips, texts))
    return rows


@cache
def encoded_sets(talker: str, folders: Folders) -> Mapping[str, tuple[list[Clip], list[dict[Modality, Features]]]]:
    """Test clips of the talker and of the known speaker, encoded; once, since no method trains the encoder."""
    model = load_checkpoint(CHECKPOINT)
    known = [clip for clip in heard_clips(folders.prepared) if clip.split == "test"][:NUM_KNOWN]
    sets = {"talker": clips_of(talker, "test", folders), "known": known}
    return {name: (clips, encoded(model, clips)) for name, clips in sets.items()}


def is_linked(arm: Arm) -> bool:
    """Whether the arm's tokens are to be near the LLM's embeddings."""
    stages = METHODS[arm.method].stages if arm.method else {}
    return arm.base != GRID or any(stage["objective"]["kind"] == "embed_link" for stage in stages.values())


def row_of(name: str, prompt: str, clips: Sequence[Clip], texts: Sequence[str]) -> Mapping[str, Any]:
    """One way of writing the same clips. nearest: what the embeddings nearest to the tokens read, without the LLM."""
    return {
        "clips": name,
        "prompt": prompt,
        "ids": [clip.id for clip in clips],
        "references": [clip.text for clip in clips],
        "texts": texts,
    }


def encoded(model: OmniAVSR, clips: Sequence[Clip]) -> list[dict[Modality, Features]]:
    reader, batches = FileReader(), []
    for first in range(0, len(clips), BATCH_SIZE):
        found = [reader.waveform(clip) for clip in clips[first : first + BATCH_SIZE]]
        rows = [prepare_waveform(sound, model.config.waveform) for sound in found if sound is not None]
        batches.append(model.encode({Modality.AUDIO: Features.pad(rows)}))
    return batches


def prompted(model: OmniAVSR, prompt: str) -> None:
    """Let the model ask for a transcript in other words; in place."""
    text = {"own": model.config.prompts[Task.ASR], "none": "", "instruction": INSTRUCTION}[prompt]
    model.text_ids = replace(model.text_ids, prompts={**model.text_ids.prompts, Task.ASR: model.text.encode(text)})


if __name__ == "__main__":
    main()
