"""Fitted laws as they stand in a file: what they say, how sure they are, and what they foretell."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from omni_avsr.config import STRICT, to_mapping
from omni_avsr.files import write_atomically
from omni_avsr.scaling.laws import VARIABLES, Law, Variable
from omni_avsr.scaling.points import ScalingPoint

LAWS_NAME = "laws.json"
LEVEL = 0.95
"""Of all intervals."""

Of = Literal["law", "level", "run"]
"""What an interval is for: the law itself, the mean of a level's runs, or one new run with its noise."""


@dataclass(frozen=True, config=STRICT)
class Estimate:
    """A value and its interval at ``LEVEL``."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, config=STRICT)
class LawDraws:
    """A law with what resampled points made of it: ``parameters`` [draws, parameters] and, [draws], noise in logs."""

    law: Law
    parameters: tuple[tuple[float, ...], ...]
    level_noise: tuple[float, ...]
    run_noise: tuple[float, ...]

    def errors(self, x: np.ndarray, of: Of) -> np.ndarray:
        """[draws, points]"""
        logs = self.law.log_error(np.array(self.parameters), x)
        if of != "law":
            logs = logs + np.array(self.level_noise)[:, None]
        if of == "run":
            logs = logs + np.array(self.run_noise)[:, None]
        return np.exp(logs)


@dataclass(frozen=True, config=STRICT)
class HeldOut:
    """A cell of the dearest level as the others foretell it. ``factor``: its compute over the dearest one fitted to."""

    flops: float
    factor: float
    measured: float
    predicted: Estimate

    @property
    def relative_error(self) -> float:
        return self.predicted.value / self.measured - 1

    @property
    def inside(self) -> bool:
        return self.predicted.low <= self.measured <= self.predicted.high


@dataclass(frozen=True, config=STRICT)
class StrategyFit:
    """The law of one strategy.

    reference: what each variable is divided by, and amplitudes are at. parameters: of ``law``.
    scores: mean held-out loss by formula.
    rivals: the law first, then those that cross-validation does not tell apart from it; intervals allow for all.
    held_out: empty when too few levels are left without the dearest one.
    """

    strategy: str
    law: Law
    reference: dict[Variable, float]
    parameters: tuple[float, ...]
    amplitudes: dict[Variable, float]
    exponents: dict[Variable, Estimate]
    floor: Estimate | None
    scores: dict[str, float]
    rivals: tuple[LawDraws, ...]
    held_out: tuple[HeldOut, ...] = ()

    @property
    def reference_row(self) -> np.ndarray:
        """[VARIABLES]"""
        return np.array([self.reference[variable] for variable in VARIABLES])

    def predict(self, values: np.ndarray, of: Of) -> list[Estimate]:
        """Errors at ``values`` [points, VARIABLES]; intervals reach from the lowest to the highest bound of rivals."""
        x = np.log(values / self.reference_row)
        best = np.exp(self.law.log_error(np.array(self.parameters), x))
        bounds = np.array([np.quantile(rival.errors(x, of), quantiles(), axis=0) for rival in self.rivals])
        low, high = np.minimum(bounds[:, 0].min(axis=0), best), np.maximum(bounds[:, 1].max(axis=0), best)
        return [Estimate(float(v), float(a), float(b)) for v, a, b in zip(best, low, high, strict=True)]


@dataclass(frozen=True, config=STRICT)
class ScalingLaws:
    """All that one ``omni-avsr fit-scaling`` found: a fit or the reason of a refusal for every strategy."""

    measure: str
    points: tuple[ScalingPoint, ...]
    fits: tuple[StrategyFit, ...]
    refusals: dict[str, str]
    origin: Mapping[str, str]

    def points_of(self, strategy: str) -> list[ScalingPoint]:
        return [point for point in self.points if point.strategy == strategy]


def quantiles() -> tuple[float, float]:
    return (1 - LEVEL) / 2, (1 + LEVEL) / 2


def write_laws(path: Path, laws: ScalingLaws) -> None:
    write_atomically(path, json.dumps(to_mapping(laws), indent=1, allow_nan=False) + "\n")


def read_laws(path: Path) -> ScalingLaws:
    """Read what ``write_laws`` wrote; ValueError with the file's name if it is missing or another file."""
    if not path.is_file():
        raise ValueError(f"{path}: no such file; omni-avsr fit-scaling writes it")
    try:
        return TypeAdapter(ScalingLaws).validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(key) for key in first["loc"])
        raise ValueError(f"{path} holds no fitted laws: {place}: {first['msg']}") from error
