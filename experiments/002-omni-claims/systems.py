"""What the arms wrote, as systems that serve the paper's eight settings, and paired differences between them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omni_avsr.bootstrap import Difference, paired_difference
from omni_avsr.error_counts import ClipCounts, count_errors
from omni_avsr.types import Hypothesis, Task

SEED = 7
"""Of the bootstrap, and of the arms that others are compared with."""
SETTINGS = (
    *((Task.ASR, rates) for rates in ("4", "16")),
    *((Task.VSR, rates) for rates in ("2", "5")),
    *((Task.AVSR, rates) for rates in ("4,2", "4,5", "16,2", "16,5")),
)
"""The columns of the paper's table."""
OMNI = ("S", "T", "ST")
BASELINES = ("dedicated", "per-task", "per-rates", "long")
WEIGHTS = ("weight-1", "weight-2")
DEPTHS = ("layers-20", "layers-10")
POOL_ALL = "pool-all"
"""The arm trained at all rates that the pooling comparison has."""
TITLES = {
    "S": "omni S: one shared adapter",
    "T": "omni T: an adapter per task",
    "ST": "omni ST: shared and per task",
    "dedicated": "dedicated: a model per task and rates",
    "per-task": "a model per task",
    "per-rates": "a model per pair of rates",
    "long": "dedicated, each with the steps of omni",
    "weight-1": "S with VSR's weight 1",
    "weight-2": "S with VSR's weight 2",
    "no-norm": "S without layer norm",
    "layers-20": "S on the LLM's first 20 layers",
    "layers-10": "S on the LLM's first 10 layers",
}

Key = tuple[Task, str, float | None]
"""Task, rates and SNR in dB (None: clean)."""


@dataclass(frozen=True)
class System:
    """The models of one family and seed: all that they wrote, as errors per clip by setting.

    passes: LLM passes of training, trainable: parameters trained; both of all models together. steps: of each model.
    """

    family: str
    seed: int
    counts: Mapping[Key, Sequence[ClipCounts]]
    num_models: int
    steps: int
    passes: int
    trainable: int

    @property
    def name(self) -> str:
        """Short, for plots and comparisons."""
        return f"{self.family}, seed {self.seed}"

    @property
    def complete(self) -> bool:
        return all((*setting, None) in self.counts for setting in SETTINGS)

    @property
    def levels(self) -> list[float]:
        """The SNRs that it was scored at."""
        return sorted({level for _, _, level in self.counts if level is not None})

    def average(self) -> list[ClipCounts]:
        """Errors of the eight settings together, in clean speech."""
        return summed([self.counts[*setting, None] for setting in SETTINGS])

    def runaways(self) -> int:
        """Transcripts of the eight settings with at least as many words too many as were said: they did not end."""
        clips = (clip.words for setting in SETTINGS for clip in self.counts[*setting, None])
        return sum(words.insertions >= words.length for words in clips)

    def in_noise(self, task: Task, level: float) -> list[ClipCounts]:
        """Errors of all rates of a task together, at one SNR; ASR's rates twice, as often as AVSR has them."""
        repeats = 2 if task is Task.ASR else 1
        return summed([clips for key, clips in self.counts.items() if (key[0], key[2]) == (task, level)] * repeats)


@dataclass(frozen=True)
class Compared:
    """The WER of a less that of b, and over what both were measured."""

    a: str
    b: str
    over: str
    difference: Difference

    @property
    def outcome(self) -> str:
        """What the interval says of a."""
        interval = self.difference.interval
        if interval.high < 0:
            return "better"
        return "worse" if interval.low > 0 else "no difference seen"


def read_files(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]


def counts_of(values: Mapping[str, Any]) -> dict[Key, list[ClipCounts]]:
    """Errors per clip by setting, of one arm's file."""
    counts = {}
    for row in values["hypotheses"]:
        key = (Task(row["task"]), row["rates"], row["snr_db"])
        texts = zip(values["references"].items(), row["texts"], strict=True)
        counts[key] = count_errors([Hypothesis(id_, key[0], key[1], said, text) for (id_, said), text in texts])
    return counts


def read_systems(files: Iterable[Mapping[str, Any]]) -> list[System]:
    """The arms' files by family and seed, in the order of ``TITLES``."""
    found: dict[tuple[str, int], list[Mapping[str, Any]]] = {}
    for values in files:
        if values["family"] in TITLES:
            found.setdefault((values["family"], values["seed"]), []).append(values)
    systems = []
    for (family, seed), models in found.items():
        counts = {key: clips for values in models for key, clips in counts_of(values).items()}
        passes, trainable = (sum(values[name] for values in models) for name in ("llm_passes", "num_trainable"))
        steps = max(values["num_steps"] for values in models)
        systems.append(System(family, seed, counts, len(models), steps, passes, trainable))
    return sorted(systems, key=lambda system: (list(TITLES).index(system.family), system.seed))


def read_pooled(files: Iterable[Mapping[str, Any]]) -> dict[str, dict[int, list[ClipCounts]]]:
    """ASR by audio rate, for each arm of the pooling comparison."""
    pooled = [values for values in files if values["family"] == "pool"]
    return {v["arm"]: {int(rates): clips for (_, rates, _), clips in counts_of(v).items()} for v in pooled}


def summed(parts: Iterable[Sequence[ClipCounts]]) -> list[ClipCounts]:
    """Each clip's errors over several settings together; their rate is the mean over the settings."""
    by_id: dict[str, ClipCounts] = {}
    for clip in (clip for part in parts for clip in part):
        before = by_id.get(clip.id)
        words = clip.words if before is None else before.words + clip.words
        characters = clip.characters if before is None else before.characters + clip.characters
        by_id[clip.id] = ClipCounts(clip.id, clip.speaker, words, characters)
    return list(by_id.values())


def compare_averages(systems: Sequence[System]) -> Iterator[Compared]:
    """Over the eight settings: omni less each family of other models, T and ST less S, and S less its ablations."""
    plain = {system.seed: system for system in systems if system.family == "S"}
    for a in systems:
        if a.family in OMNI:
            for b in systems:
                if b.family in BASELINES:
                    yield _averages(a, b)
        if a.family in ("T", "ST") and a.seed in plain:
            yield _averages(a, plain[a.seed])
    for b in systems:
        if b.family in (*WEIGHTS, "no-norm", *DEPTHS) and SEED in plain:
            yield _averages(plain[SEED], b)


def _averages(a: System, b: System) -> Compared:
    return Compared(a.name, b.name, "mean of the eight", paired_difference(a.average(), b.average(), seed=SEED))


def compare_rates(systems: Sequence[System]) -> Iterator[Compared]:
    """What fewer tokens cost: AVSR at the highest rates less AVSR at the lowest."""
    for system in systems:
        few, many = (system.counts[Task.AVSR, rates, None] for rates in ("16,5", "4,2"))
        difference = paired_difference(few, many, seed=SEED)
        yield Compared(f"{system.name}: AVSR 16,5", "AVSR 4,2", "clean", difference)


def compare_in_noise(systems: Sequence[System]) -> Iterator[Compared]:
    """At each SNR, AVSR less ASR at the same audio rates; and AVSR of omni less that of the dedicated models."""
    for a in systems:
        for level in a.levels:
            avsr, asr = (a.in_noise(task, level) for task in (Task.AVSR, Task.ASR))
            yield Compared(f"{a.name}: AVSR", "ASR", f"{level:g} dB", paired_difference(avsr, asr, seed=SEED))
        for b in systems:
            if a.family in OMNI and b.family == "dedicated":
                for level in (level for level in a.levels if level in b.levels):
                    pair = (system.in_noise(Task.AVSR, level) for system in (a, b))
                    difference = paired_difference(*pair, seed=SEED)
                    yield Compared(f"{a.name}: AVSR", f"{b.name}: AVSR", f"{level:g} dB", difference)


def compare_pooled(pooled: Mapping[str, Mapping[int, Sequence[ClipCounts]]]) -> Iterator[Compared]:
    """ASR trained at one rate less ASR trained at all, at each rate."""
    for arm, row in pooled.items():
        if arm != POOL_ALL and POOL_ALL in pooled:
            for rate, clips in row.items():
                difference = paired_difference(clips, pooled[POOL_ALL][rate], seed=SEED)
                yield Compared(arm, POOL_ALL, f"rate {rate}", difference)
