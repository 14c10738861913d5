"""Laws of error: sums of power laws of compute, sizes and data, with or without a floor."""

from __future__ import annotations

import itertools
from collections.abc import Collection
from typing import Literal, get_args

import numpy as np
from pydantic.dataclasses import dataclass

from omni_avsr.config import STRICT

Variable = Literal["flops", "encoder_parameters", "llm_parameters", "data_hours"]
VARIABLES: tuple[Variable, ...] = get_args(Variable)
"""What errors may depend on: training compute, parameters of the encoders and of the LLM, hours of distinct speech."""
SYMBOLS: dict[Variable, str] = {
    "flops": "C",
    "encoder_parameters": "Nenc",
    "llm_parameters": "Nllm",
    "data_hours": "D",
}


@dataclass(frozen=True, config=STRICT)
class Law:
    """error = E + the sum over ``variables`` of a v^-b, with a, b > 0 and E >= 0; without a ``floor``, E is 0.

    One row of parameters holds log a and log b of each variable in turn, then E. ``x`` of all methods is
    [points, all VARIABLES]: logarithms of the variables over their references, so that a is the share of error at the
    reference.
    """

    variables: tuple[Variable, ...]
    floor: bool

    @property
    def num_parameters(self) -> int:
        return 2 * len(self.variables) + self.floor

    @property
    def formula(self) -> str:
        letters = "abcdfghi"
        terms = [f"{letters[2 * n]} {SYMBOLS[v]}^-{letters[2 * n + 1]}" for n, v in enumerate(self.variables)]
        return " + ".join((["E"] if self.floor else []) + terms)

    def log_error(self, parameters: np.ndarray, x: np.ndarray) -> np.ndarray:
        """[..., parameters] -> [..., points]: logarithms of the errors that the law foretells."""
        return np.log(self._parts(parameters, x).sum(axis=-1))

    def log_error_and_slopes(self, parameters: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """``log_error`` and its derivatives by the parameters, [..., points, parameters]."""
        parts = self._parts(parameters, x)
        total = parts.sum(axis=-1)
        num_terms = len(self.variables)
        slopes = np.empty((*total.shape, self.num_parameters))
        slopes[..., 0 : 2 * num_terms : 2] = parts[..., :num_terms] / total[..., None]
        slopes[..., 1 : 2 * num_terms : 2] = -slopes[..., 0 : 2 * num_terms : 2] * self._decay(parameters, x)
        if self.floor:
            slopes[..., -1] = 1 / total
        return np.log(total), slopes

    def _decay(self, parameters: np.ndarray, x: np.ndarray) -> np.ndarray:
        """[..., points, variables]: b times the logarithm of the variable."""
        columns = [VARIABLES.index(variable) for variable in self.variables]
        return np.exp(parameters[..., None, 1 : 2 * len(self.variables) : 2]) * x[:, columns]

    def _parts(self, parameters: np.ndarray, x: np.ndarray) -> np.ndarray:
        """[..., points, terms]: what each variable, and then the floor, adds to the error."""
        amplitudes = parameters[..., None, 0 : 2 * len(self.variables) : 2]
        # A fit may try what no float holds; within these limits it only finds that it fits badly.
        terms = np.exp(np.clip(amplitudes - self._decay(parameters, x), -300, 300))
        if not self.floor:
            return terms
        return np.concatenate([terms, np.broadcast_to(parameters[..., None, -1:], (*terms.shape[:-1], 1))], axis=-1)


PLAIN = Law(("flops",), floor=False)
FLOORED = Law(("flops",), floor=True)


def candidates(varying: Collection[Variable], max_parameters: int) -> list[Law]:
    """The laws to choose among, those with few parameters first: of compute, and joint ones in what else varies."""
    others = [variable for variable in VARIABLES[1:] if variable in varying]
    groups = [group for size in range(1, len(others) + 1) for group in itertools.combinations(others, size)]
    first: tuple[tuple[Variable, ...], ...] = ((), ("flops",))
    joint = [Law((*compute, *group), floor=True) for group in groups for compute in first]
    laws = sorted([PLAIN, FLOORED, *joint], key=lambda law: law.num_parameters)
    return [law for law in laws if law.num_parameters <= max_parameters]
