"""Train every arm of the experiment and score it along its curve; a point whose line is there is not run again.

    python experiments/003-efin/run.py PREPARED NOISE RUNS [--only GLOB ...] [--processes 2]

PREPARED: the folder that holds grid/manifest.jsonl. NOISE: the folder of babble_train.flac and babble_test.flac. RUNS
gets the runs; results/<arm>.jsonl beside this script gets a line for each point: what it cost and what it wrote. First
come the tries of learning rates, then what follows from the rates that validation chose.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any

from arms import PROJECTOR_STEPS, TRAINING_SNR_DB, Arm, follow_ups, tries
from curves import RESULTS, choose_scales, read_lines
from filelock import FileLock
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from omni_avsr.checkpoint import load_checkpoint
from omni_avsr.cli.hydra_app import config_folder
from omni_avsr.config import from_mapping, to_mapping
from omni_avsr.data.batching import ClipSize, PlanSampler
from omni_avsr.decode import DecodeConfig
from omni_avsr.features import VIDEO_FPS
from omni_avsr.files import write_atomically
from omni_avsr.flops.tape import Flops
from omni_avsr.further import run_further
from omni_avsr.provenance import commit, today
from omni_avsr.run import RECORD, RunConfig
from omni_avsr.scorer import Scorer, ScoringConfig
from omni_avsr.side_by_side import run_side_by_side
from omni_avsr.stage_data import training_clips
from omni_avsr.types import Hypothesis

TEST_SET = "grid_s1"
# A transcript of GRID takes six tokens and the end; a model that does not know where to end would ramble on for hours.
SCORING = ScoringConfig(decode=DecodeConfig(max_new_tokens=16), batch_size=40)


@dataclass(frozen=True)
class Folders:
    """prepared, noise: data. runs: where runs go. results: where lines go."""

    prepared: Path
    noise: Path
    runs: Path
    results: Path = RESULTS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("prepared", type=Path)
    parser.add_argument("noise", type=Path)
    parser.add_argument("runs", type=Path)
    parser.add_argument("--only", nargs="*", default=["*"], metavar="GLOB", help="arms to run (all)")
    parser.add_argument("--processes", type=int, default=2, help="arms side by side, one thread each (2)")
    options = parser.parse_args()
    folders = Folders(options.prepared, options.noise, options.runs)
    failed = run_all(tries(), options.only, options.processes, folders)
    chosen = choose_scales(read_lines(folders.results))
    failed += run_all(follow_ups(chosen), options.only, options.processes, folders)
    if failed:
        sys.exit(f"failed, for the reasons in {options.runs}/*.log: {', '.join(failed)}")


def run_all(arms: Sequence[Arm], globs: Sequence[str], processes: int, folders: Folders) -> list[str]:
    """Run what is missing of the arms that match a glob; returns the names of those that failed."""
    chosen = [arm for arm in arms if any(fnmatchcase(arm.name, glob) for glob in globs)]
    todo = [arm for arm in chosen if missing(arm, folders)]
    work = partial(train_and_score, folders=folders)
    run_side_by_side(work, {arm.name: arm for arm in todo}, folders.runs, processes)
    return sorted({arm.name for arm in todo if missing(arm, folders)})


def results_file(arm: Arm, folders: Folders) -> Path:
    return folders.results / f"{arm.name}.jsonl"


def missing(arm: Arm, folders: Folders) -> list[int]:
    """The points that have no line yet."""
    path = results_file(arm, folders)
    done = {line["steps"] for line in read_lines(path)} if path.is_file() else set()
    return [steps for steps in arm.points if steps not in done]


def train_and_score(arm: Arm, folders: Folders) -> None:
    """Train to each point that is missing, score there, and go on from there."""
    with FileLock(folders.runs / f"{arm.name}.lock"):
        for steps in missing(arm, folders):
            config = from_mapping(RunConfig, point_values(arm, steps, folders))
            run_further(config)
            path, line = results_file(arm, folders), json.dumps(measure(arm, steps, config), default=str)
            before = path.read_text() if path.is_file() else ""
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, f"{before}{line}\n")


def point_values(arm: Arm, steps: int, folders: Folders) -> dict[str, Any]:
    """The settings of the arm's run up to one point."""
    values = base_values(arm, folders)
    if "video_encoder" in values["stages"]:  # CTC alone takes long to find where letters stand; GRID has word times
        values["stages"]["video_encoder"]["objective"]["frame_targets"] = {"words": 1.0}
    *leading, last = values["stages"]
    lengths = {name: PROJECTOR_STEPS if name == "projector" else arm.encoder_steps for name in leading} | {last: steps}
    for name, stage in values["stages"].items():
        stage["num_steps"] = lengths[name]
        stage["optimizer"]["lr"] *= arm.lr_scale
        stage["optimizer"]["schedule"] = "cosine" if arm.decayed else "constant"
        if stage["augment"].get("snr_db") != []:  # what reads video alone has no noise
            stage["augment"]["snr_db"] = TRAINING_SNR_DB
    return values | {"output": folders.runs / arm.name, "seed": arm.seed}


def base_values(arm: Arm, folders: Folders) -> dict[str, Any]:
    """The settings that all arms of a strategy and task share, from conf/."""
    unheard = [f"model.{m}_encoder=null" for m in ("audio", "video") if m not in arm.task.modalities]
    overrides = [
        "model=omni_smollm2_tiny",
        f"stages={arm.strategy}_{arm.task}",
        "data=grid",
        f"data.root={folders.prepared}",
        f"data.noise_root={folders.noise}",
        "data.max_validation_clips=2",  # points are scored on all of them, here validation is but in the way
        "++model.llm.dtype=bfloat16",
        "model.adapters.strategy=shared",
        "model.compression.audio_rates=[4]",
        "model.compression.video_rates=[2]",
        *unheard,
        "trainer.precision=bf16-mixed",
        "trainer.accelerator=cpu",
        "loggers=[csv]",
        "checkpoint_dtype=float32",
        "output=later",
    ]
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        values = OmegaConf.to_container(compose("train", overrides), resolve=True, throw_on_missing=True)
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


def measure(arm: Arm, steps: int, config: RunConfig) -> dict[str, Any]:
    """Score the run where it stands: its line in the results."""
    model = load_checkpoint(config.output / "checkpoint")  # the LLM in bfloat16, as trained
    data, written = config.data, {}
    for split, clips, noise in (
        ("validation", data.read_split("validation"), data.read_noise()),
        ("test", data.read_test_set(TEST_SET), data.read_test_noise(TEST_SET)),
    ):
        scorer = Scorer(model, clips, (arm.task,), SCORING, noise, arm.levels)
        written[split] = scorer.run(config.output / "hypotheses" / f"{steps}-{split}.jsonl", split)
    folders = [config.output / "stages" / f"{number}-{name}" for number, name in enumerate(config.stages)]
    records = {folder.name.partition("-")[2]: json.loads((folder / RECORD).read_text()) for folder in folders}
    return {
        **{key: value for key, value in asdict(arm).items() if key != "points"},
        "arm": arm.name,
        "usual_split": arm.usual_split,
        "steps": steps,
        "commit": commit(),
        "date": today(),
        "flops_by_stage": {name: Flops(**record["flops"]).total for name, record in records.items()},
        "hours_by_stage": hours_by_stage(config),
        "seconds_by_stage": {name: round(record["seconds"], 1) for name, record in records.items()},
        "encoder_parameters": sum(value.numel() for value in model.encoders.parameters()),
        "llm_parameters": sum(value.numel() for value in model.llm.parameters()),
        "data_hours": sum(clip.seconds for clip in data.read_split("train")) / 3600,
        "stages": {name: to_mapping(stage) for name, stage in config.stages.items()},
        "hypotheses": [row for split, hypotheses in written.items() for row in compact(split, hypotheses)],
    }


def hours_by_stage(config: RunConfig) -> dict[str, float]:
    """Hours of speech that went through each stage, every pass counted."""
    hours = {}
    for number, (name, stage) in enumerate(config.stages.items()):
        clips = training_clips(name, stage, config.data.read_split("train"))
        sizes = [ClipSize(max(c.num_frames, math.ceil(c.seconds * VIDEO_FPS)), 1, c.modalities) for c in clips]
        plans = PlanSampler(sizes, stage.batching, stage.num_steps, config.seed * 1_009 + number)
        hours[name] = sum(clips[index].seconds for plan in plans for index in plan.indices) / 3600
    return hours


def compact(split: str, hypotheses: Sequence[Hypothesis]) -> list[Mapping[str, Any]]:
    """Hypotheses by level of noise, each a text per clip in the order of the ids."""
    levels = dict.fromkeys(h.snr_db for h in hypotheses)
    rows = {level: {h.id: h for h in hypotheses if h.snr_db == level} for level in levels}
    return [
        {
            "split": split,
            "snr_db": level,
            "ids": list(row),
            "references": [h.reference for h in row.values()],
            "texts": [h.text for h in row.values()],
        }
        for level, row in rows.items()
    ]


if __name__ == "__main__":
    main()
