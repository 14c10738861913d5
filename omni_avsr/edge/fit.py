"""From runs that were measured on a device to the constants of its ledger."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean

from omni_avsr.edge.ledger import MemoryConstants, MemoryLedger
from omni_avsr.edge.request import Request
from omni_avsr.edge.timing import PassConstants, TimeConstants, Work
from omni_avsr.types import Modality

_LEAST_APART = 8 << 20
"""Bytes of activations between two runs that tell the allocator's share of them."""
_ROUNDS = 3


@dataclass(frozen=True)
class MemoryRun:
    """A run of a process that did nothing else, and the most bytes it had."""

    ledger: MemoryLedger
    request: Request
    peak: int


def fit_memory(libraries: int, runs: Sequence[MemoryRun]) -> MemoryConstants:
    """The constants with which the ledger gives the peaks of two runs: above all that is counted, activations are on a
    straight line, whose slope is their scale and whose start is the overhead.

    Args:
        libraries: bytes of a process that has read no model.

    Raises:
        ValueError: the runs differ too little in their activations to tell a scale, or peaks fall where these rise.
    """
    constants = MemoryConstants(libraries=libraries, overhead=0, scale=1.0)
    # Which stage is the fullest may depend on the scale.
    for _ in range(_ROUNDS):
        counted = [(run.ledger.transcribing(run.request, constants), run.peak) for run in runs]
        points = [(memory.parts["activations"] / constants.scale, memory, peak) for memory, peak in counted]
        (few, small, low), (many, large, high) = sorted(points, key=lambda point: point[0])
        if many - few < _LEAST_APART:
            raise ValueError(
                f"two runs that differ by {(many - few) / 2**20:.1f} MiB of activations cannot tell what the allocator "
                f"adds, {_LEAST_APART >> 20} MiB can; let the lengths of their clips be further apart"
            )
        first, last = low - small.peak + small.parts["activations"], high - large.peak + large.parts["activations"]
        slope = (last - first) / (many - few)
        if slope <= 0:
            raise ValueError(
                f"the peak fell from {low / 2**20:.0f} to {high / 2**20:.0f} MiB where activations rise by "
                f"{(many - few) / 2**20:.0f} MiB: another process disturbed the measurement; repeat it"
            )
        overhead = constants.overhead + round(first - slope * few)
        constants = MemoryConstants(libraries=libraries, overhead=overhead, scale=slope)
    return constants


@dataclass(frozen=True)
class Timed:
    """What a run took, beside what it had to do. encoding: seconds by modality; step: of a new token."""

    work: Work
    weight_format: str
    encoding: Mapping[Modality, float]
    prompt: float
    step: float


def fit_time(layer: float, runs: Sequence[Timed]) -> TimeConstants:
    """Seconds for FLOPs and bytes: of the encoders, the mean of all runs; of passes, by the formats of the weights.

    Args:
        layer: seconds of a layer of the LLM that has next to nothing to compute.
    """
    encoders: dict[Modality, list[float]] = {}
    passes: dict[str, list[PassConstants]] = {}
    for run in runs:
        for modality, seconds in run.encoding.items():
            encoders.setdefault(modality, []).append(seconds / run.work.encoder_flops[modality])
        passes.setdefault(run.weight_format, []).append(_fit_passes(layer, run))
    return TimeConstants(
        {modality: mean(found) for modality, found in encoders.items()},
        {
            name: PassConstants(layer, mean(one.byte for one in found), mean(one.flop for one in found))
            for name, found in passes.items()
        },
    )


def _fit_passes(layer: float, run: Timed) -> PassConstants:
    """Two passes, two unknowns; what a noisy clock would make negative is zero."""
    prompt, step = run.work.prompt, run.work.step
    of_prompt, of_step = (max(0.0, s - layer * prompt.layers) for s in (run.prompt, run.step))
    # of_prompt = byte * b1 + flop * f1, of_step = byte * b2 + flop * f2
    determinant = step.bytes_read * prompt.flops - prompt.bytes_read * step.flops
    byte = max(0.0, (of_step * prompt.flops - of_prompt * step.flops) / determinant)
    flop = max(0.0, (of_prompt - byte * prompt.bytes_read) / prompt.flops)
    return PassConstants(layer, byte, flop)
