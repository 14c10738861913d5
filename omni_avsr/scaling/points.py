"""What one finished run says about scaling: what it cost, how large it was, how often it erred; the JSONL of these."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import field
from pathlib import Path
from typing import Annotated

from pydantic import Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from omni_avsr.config import STRICT, Positive, to_mapping
from omni_avsr.files import write_atomically

POINTS_NAME = "scaling.jsonl"
"""The file that is looked for in folders of runs."""

PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]


@dataclass(frozen=True, config=STRICT)
class ScalingPoint:
    """One run: all stages of one config with one seed.

    measure: what ``error`` is, in words ("WER, mean of tasks"); all points that are fitted together have the same.
    error: errors over reference length, as a share. num_units: the words or characters that it was measured on.
    flops: of training, all stages together, forward and backward; ``flops_by_stage`` adds up to it.
    hours_by_stage: hours of speech that went through each stage, every pass counted; 0 for a stage without speech.
    data_hours: hours of distinct training speech. The sizes are in parameters, frozen ones included.
    """

    strategy: str
    config: str
    measure: str
    flops: PositiveFloat
    flops_by_stage: dict[str, Amount]
    hours_by_stage: dict[str, Amount]
    error: float
    num_units: Positive
    encoder_parameters: Positive
    llm_parameters: Positive
    data_hours: PositiveFloat
    seed: int
    commit: str = field(default="unknown")
    date: str = field(default="unknown")

    def __post_init__(self) -> None:
        if not (math.isfinite(self.error) and self.error > 0):
            raise ValueError(
                f"error {self.error} has no logarithm: leave out a run that failed; test one without errors on more"
            )
        if not math.isclose(total := sum(self.flops_by_stage.values()), self.flops, rel_tol=0.01):
            raise ValueError(f"flops_by_stage adds up to {total:.4g}, but flops is {self.flops:.4g}")
        if self.flops_by_stage.keys() != self.hours_by_stage.keys():
            raise ValueError(
                f"flops_by_stage has {sorted(self.flops_by_stage)}, hours_by_stage {sorted(self.hours_by_stage)}"
            )


def write_points(path: Path, points: Iterable[ScalingPoint]) -> None:
    """Write a JSONL file, one point a line, in one atomic step."""
    write_atomically(path, "".join(f"{json.dumps(to_mapping(point), allow_nan=False)}\n" for point in points))


def read_points(paths: Sequence[Path]) -> list[ScalingPoint]:
    """The points of JSONL files, and of every ``scaling.jsonl`` below folders.

    Raises:
        ValueError: with file and line for whatever is not a point; for a missing file, a folder without any, or a run
            (strategy, config, seed and FLOPs) that occurs twice.
    """
    points = [point for path in paths for file in _files(path) for point in _read(file)]
    runs = Counter((point.strategy, point.config, point.seed, point.flops) for point in points)
    if twice := [run for run, count in runs.items() if count > 1]:
        strategy, config, seed, _ = twice[0]
        raise ValueError(
            f"{len(twice)} runs occur more than once, such as {strategy} {config} with seed {seed}: give each once"
        )
    return points


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        found = sorted(path.rglob(POINTS_NAME))
        if not found:
            raise ValueError(f"{path}: no {POINTS_NAME} in it or below")
        return found
    if not path.is_file():
        raise ValueError(f"{path}: no such file or folder")
    return [path]


def _read(path: Path) -> list[ScalingPoint]:
    points = []
    # Split at \n alone: str.splitlines also breaks at separators that may stand inside a JSON string.
    for number, line in enumerate(path.read_bytes().split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            points.append(TypeAdapter(ScalingPoint).validate_json(line, strict=True))
        except ValidationError as error:
            first = error.errors()[0]
            problem = " ".join([*(f"{key}:" for key in first["loc"]), first["msg"]])
            raise ValueError(f"{path}:{number}: not a point of scaling: {problem}") from error
    return points
