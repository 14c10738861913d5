"""Simulated runs whose law is known."""

from collections.abc import Callable, Sequence

import numpy as np

from omni_avsr.scaling.points import ScalingPoint

CHEAPEST = 1e15
"""FLOPs of the cheapest simulated level."""


def point(flops: float = CHEAPEST, error: float = 0.5, **changes: object) -> ScalingPoint:
    """A run of two stages; what it is called tells it apart from runs of other compute, sizes and data."""
    values: dict = {
        "strategy": "hybrid",
        "measure": "WER",
        "flops": flops,
        "flops_by_stage": {"encoders": 0.25 * flops, "joint": 0.75 * flops},
        "hours_by_stage": {"encoders": flops / 1e14, "joint": flops / 1e14},
        "error": error,
        "num_units": 100_000,
        "encoder_parameters": 10_000_000,
        "llm_parameters": 135_000_000,
        "data_hours": 10.0,
        "seed": 0,
        **changes,
    }
    sizes = (values["encoder_parameters"], values["llm_parameters"], values["data_hours"])
    return ScalingPoint(**{"config": f"{values['flops']:.3g}-{sizes}", **values})


def power_law(a: float, b: float, floor: float = 0.0) -> Callable[[float], float]:
    """error = floor + a (C / CHEAPEST)^-b"""
    return lambda flops: floor + a * (flops / CHEAPEST) ** -b


def simulate(
    law: Callable[[float], float],
    *,
    levels: int = 8,
    span: float = 300.0,
    seeds: int = 3,
    noise: float = 0.03,
    generator: np.random.Generator | None = None,
    **changes: object,
) -> list[ScalingPoint]:
    """Runs at ``levels`` of compute, ``span`` times apart in all, with normal noise on log errors."""
    generator = generator or np.random.default_rng(7)
    return [
        point(
            float(flops), law(float(flops)) * float(np.exp(noise * generator.standard_normal())), seed=seed, **changes
        )
        for flops in np.geomspace(CHEAPEST, span * CHEAPEST, levels)
        for seed in range(seeds)
    ]


def grid(
    law: Callable[[float, float], float],
    encoders: Sequence[int],
    hours: Sequence[float],
    generator: np.random.Generator,
    noise: float = 0.03,
    seeds: int = 2,
) -> list[ScalingPoint]:
    """Runs of every encoder size on every amount of data, compute in proportion to both: ``law(size, hours)``."""
    return [
        point(
            1e6 * size * data,
            law(size, data) * float(np.exp(noise * generator.standard_normal())),
            encoder_parameters=size,
            data_hours=data,
            seed=seed,
        )
        for size in encoders
        for data in hours
        for seed in range(seeds)
    ]
