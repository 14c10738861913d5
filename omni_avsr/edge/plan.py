"""Which settings of a model fit a budget of memory and of time, and which of them to take."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from omni_avsr.compression import task_rates
from omni_avsr.edge.device import Device
from omni_avsr.edge.ledger import WEIGHT_FORMATS, Memory, MemoryLedger, WeightFormat, in_format, memory_ledger
from omni_avsr.edge.meter import GIB
from omni_avsr.edge.request import Request
from omni_avsr.edge.timing import Seconds, WorkLedger
from omni_avsr.encoders.access import max_seconds
from omni_avsr.model import OmniAVSR
from omni_avsr.types import Task

_CONTEXTS = (5.0, 10.0, 15.0, 20.0, 30.0, 45.0, 60.0)
"""Seconds of the clips that are tried for the longest that fits."""


@dataclass(frozen=True)
class WerKey:
    """What a known error rate is of. rates: as ``Rates.label`` writes them."""

    task: Task
    rates: str
    num_beams: int
    weight_format: str


@dataclass(frozen=True)
class Option:
    """A setting with what it takes. seconds, wer: None where nobody measured. longest: seconds of a clip that fits."""

    llm: str
    num_parameters: int
    weight_format: WeightFormat
    request: Request
    memory: Memory
    seconds: Seconds | None
    wer: float | None
    longest: float

    @property
    def tokens_per_second(self) -> float:
        """By which compression is ranked, whatever the encoders' own rates."""
        return sum(1 / self.request.rates.of(modality) for modality in self.request.task.modalities)


@dataclass(frozen=True)
class Budget:
    """memory: bytes of the process. latency: seconds from the end of a clip to its transcript; None is any."""

    memory: int
    latency: float | None = None

    def fits(self, option: Option) -> bool:
        """Where a time is asked for, one that nobody measured does not fit."""
        if option.memory.peak > self.memory:
            return False
        return self.latency is None or (option.seconds is not None and option.seconds.total <= self.latency)


@dataclass(frozen=True)
class EdgePlan:
    """options: all that fit, the best first. refusals: of each LLM and format that has none, why."""

    options: tuple[Option, ...]
    reason: str
    refusals: Mapping[str, str]

    @property
    def best(self) -> Option:
        return self.options[0]


@dataclass(frozen=True)
class Candidate:
    """A model without values, and the formats that its LLM may be kept in."""

    name: str
    model: OmniAVSR
    formats: tuple[WeightFormat, ...]


def all_options(
    candidates: Iterable[Candidate],
    task: Task,
    seconds: float,
    new_tokens: int,
    beams: Sequence[int],
    device: Device,
    budget: Budget,
    wers: Mapping[WerKey, float],
) -> Iterator[Option]:
    """Every setting of every candidate, whether it fits or not; ``seconds`` is the clip to plan for.

    Raises:
        ValueError: a model does not do the task, takes no clip of that length, or is not described to the ledger.
    """
    for candidate in candidates:
        for name in candidate.formats:
            ledger = memory_ledger(candidate.model, *in_format(name, candidate.model.config.llm))
            work = WorkLedger(ledger)
            for rates in task_rates(candidate.model.config.compression, task):
                for num_beams in beams:
                    request = Request(task, rates, seconds, new_tokens, num_beams)
                    yield Option(
                        llm=candidate.name,
                        num_parameters=ledger.llm.num_parameters,
                        weight_format=name,
                        request=request,
                        memory=ledger.transcribing(request, device.memory),
                        seconds=work.of(request).seconds(device.time, name),
                        wer=wers.get(WerKey(task, rates.label(task), num_beams, name)),
                        longest=_longest(ledger, request, device, budget),
                    )


def decide(options: Iterable[Option], budget: Budget) -> EdgePlan:
    """The options that fit, and the one to take: that of the lowest known error rate; where none is known, the largest
    LLM, then the gentlest format of its weights, the weakest compression and the fewest beams.

    Raises:
        ValueError: nothing fits, with the numbers of what comes nearest.
    """
    found = list(options)
    fitting = sorted((option for option in found if budget.fits(option)), key=_rank)
    groups: dict[str, list[Option]] = {}
    for option in found:
        groups.setdefault(f"{option.llm}, {option.weight_format}", []).append(option)
    refusals = {
        name: _refusal(group, budget) for name, group in groups.items() if not any(budget.fits(one) for one in group)
    }
    if not fitting:
        lines = "\n".join(f"  {name}: {reason}" for name, reason in refusals.items())
        raise ValueError(f"nothing fits {_said(budget)}:\n{lines}")
    return EdgePlan(tuple(fitting), _reason(fitting, budget), refusals)


def _longest(ledger: MemoryLedger, request: Request, device: Device, budget: Budget) -> float:
    """Seconds of the longest clip that memory allows, 0 where none of those that are tried fits."""
    limit = min(max_seconds(ledger.model, modality) for modality in request.task.modalities)
    per_second = request.new_tokens / request.seconds
    for seconds in sorted({min(limit, seconds) for seconds in _CONTEXTS}, reverse=True):
        longer = replace(request, seconds=seconds, new_tokens=max(1, round(per_second * seconds)))
        if ledger.transcribing(longer, device.memory).peak <= budget.memory:
            return seconds
    return 0.0


def _rank(option: Option) -> tuple[float | int, ...]:
    known = option.wer is not None
    return (
        not known,
        option.wer if option.wer is not None else 0.0,
        -option.num_parameters,
        WEIGHT_FORMATS.index(option.weight_format),
        -option.tokens_per_second,
        option.request.num_beams,
    )


def _reason(fitting: Sequence[Option], budget: Budget) -> str:
    best = fitting[0]
    among = f"of {len(fitting)} settings within {_said(budget)}"
    if best.wer is not None:
        return f"{among}, it has the lowest known word error rate"
    return (
        f"{among}, none of known error rate, it has the largest LLM, then the gentlest format of weights, the weakest "
        "compression and the fewest beams"
    )


def _refusal(group: Sequence[Option], budget: Budget) -> str:
    """What the smallest setting of one LLM and format takes, or how long the fastest that has room."""
    small = min(group, key=lambda option: option.memory.peak)
    if small.memory.peak > budget.memory:
        largest = max(small.memory.parts.items(), key=lambda part: part[1])
        return (
            f"{small.memory.peak / GIB:.2f} GiB at least, of {budget.memory / GIB:.2f} GiB "
            f"({largest[0]}: {largest[1] / GIB:.2f} GiB)"
        )
    room = [option for option in group if option.memory.peak <= budget.memory]
    times = [option.seconds.total for option in room if option.seconds is not None]
    if not times:
        return "how long it takes is not known: measure the device with calibrate-device, and name its file by --device"
    return f"{min(times):.2f} s at least, of {budget.latency} s"


def _said(budget: Budget) -> str:
    memory = f"{budget.memory / GIB:.2f} GiB"
    return memory if budget.latency is None else f"{memory} and {budget.latency:g} s"
