"""What an utterance is transcribed by: the task its streams allow, at the rates that a device has room and time for.

Elastic inference (Omni-AVSR 1.2): one model, any trained rate. Here the rate is chosen for each utterance, from its
length, a limit of memory and one of time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch

from omni_avsr.compression import task_rates
from omni_avsr.config import ModelConfig
from omni_avsr.edge.device import DEFAULT, Device
from omni_avsr.edge.ledger import MemoryLedger, planned_memory
from omni_avsr.edge.meter import GIB, resident
from omni_avsr.edge.plan import Budget, WerKey
from omni_avsr.edge.request import Request
from omni_avsr.edge.timing import WorkLedger
from omni_avsr.recording import Recording
from omni_avsr.signals import estimate_snr, visible_share
from omni_avsr.types import Modality, Rates, Task


@dataclass(frozen=True)
class ElasticOptions:
    """What an utterance is fitted to.

    device: what calibrate-device wrote; times are not known without. wers: known error rates, by which settings are
    ranked; without them those with more tokens are better. tokens_per_second: of speech, that are written.
    min_snr_db: below this estimated ratio the sound is passed over where there is a video; by estimates, babble is
    never below -3 dB (``signals.estimate_snr``). min_visible: share of the pictures that have to show something.
    """

    budget: Budget
    device: Device = DEFAULT
    wers: Mapping[WerKey, float] = field(default_factory=dict)
    tokens_per_second: float = 4.0
    min_snr_db: float = -8.0
    min_visible: float = 0.5


@dataclass(frozen=True)
class Choice:
    """How an utterance is transcribed. peak: bytes of the process; seconds: None on a device that was not measured."""

    task: Task
    rates: Rates
    peak: int
    seconds: float | None
    notes: tuple[str, ...] = ()


def check_room(config: ModelConfig, options: ElasticOptions) -> None:
    """Raise ValueError, with the numbers, where a process that loads the model passes the limit. Loads nothing."""
    ledger, limit = planned_memory(config), options.budget.memory
    stage, peak = max(
        ((stage, sum(parts.values())) for stage, parts in ledger.reading(options.device.memory).items()),
        key=lambda pair: pair[1],
    )
    if peak > limit:
        weights = max(ledger.weights.items(), key=lambda pair: pair[1])
        raise ValueError(
            f"this model takes {peak / GIB:.2f} GiB while {stage}, of {limit / GIB:.2f} GiB ({weights[0]}: "
            f"{weights[1] / GIB:.2f} GiB in {ledger.weight_format}); omni-avsr plan-edge lists what fits"
        )


class Controller:
    """Chooses for one loaded model; what the process holds is measured, what an utterance adds is foretold."""

    def __init__(
        self, config: ModelConfig, options: ElasticOptions, num_beams: int, max_new_tokens: int, held: int | None = None
    ) -> None:
        """held: bytes of the process with the model in it and nothing else to do; None asks the system now.

        Raises:
            ValueError: the sizes of a base model are not known.
        """
        self.config, self.options = config, options
        self.num_beams, self.max_new_tokens = num_beams, max_new_tokens
        self.ledger: MemoryLedger = planned_memory(config)
        self.work = WorkLedger(self.ledger)
        self.held = resident().now if held is None else held

    def fit(self, recording: Recording, is_auto: bool, seconds: float) -> tuple[Recording, Choice]:
        """The recording as it will be transcribed, with notes of why, and how.

        Args:
            is_auto: whether another task than the recording's may be taken.
            seconds: of its longest piece.

        Raises:
            ValueError: nothing has room, with the numbers.
        """
        task, notes = self._usable(recording) if is_auto else (recording.task, ())
        tasks = (task, *(t for t in (Task.ASR, Task.VSR) if t in self._within(task))) if is_auto else (task,)
        choice = self.choose(tasks, seconds)
        if choice.task is not task:
            notes = (*notes, f"{choice.task} in place of {task}, by the limits of memory and time")
        return _reduced(recording, choice.task, (*notes, *choice.notes)), choice

    def choose(self, tasks: Sequence[Task], seconds: float) -> Choice:
        """The best setting within the budget; of ``tasks`` an earlier one is better unless error rates are known.

        Where no setting is fast enough, the fastest is taken, and a note says so.
        """
        budget = self.options.budget
        found = sorted(self._choices(tasks, seconds), key=lambda choice: self._rank(choice, tasks))
        room = [choice for choice in found if choice.peak <= budget.memory]
        if not room:
            least = min(choice.peak for choice in found)
            raise ValueError(
                f"{seconds:.1f} s at once take {least / GIB:.2f} GiB at least, of {budget.memory / GIB:.2f} GiB; take "
                "shorter pieces (--window)"
            )
        if budget.latency is None:
            return room[0]
        timed = [(choice.seconds, choice) for choice in room if choice.seconds is not None]
        if not timed:
            raise ValueError("no times are known for a latency: measure the device with omni-avsr calibrate-device")
        fast = [choice for foretold, choice in timed if foretold <= budget.latency]
        if fast:
            return fast[0]
        foretold, choice = min(timed, key=lambda pair: pair[0])
        return replace(choice, notes=(f"{foretold:.2f} s foretold, of {budget.latency:g} s: nothing is faster",))

    def _choices(self, tasks: Sequence[Task], seconds: float) -> Iterator[Choice]:
        device = self.options.device
        for task in tasks:
            for rates in task_rates(self.config.compression, task):
                request = Request(task, rates, seconds, self.max_new_tokens, self.num_beams)
                memory = self.ledger.transcribing(request, device.memory)
                # Reading the model is over; of the rest, all but what is held comes on top of what is there.
                stages = [sum(parts.values()) for stage, parts in memory.stages.items() if not stage.startswith("read")]
                added = max(stages) - sum(self.ledger.held(device.memory).values())
                written = min(self.max_new_tokens, max(1, round(seconds * self.options.tokens_per_second)))
                work = self.work.of(replace(request, new_tokens=written))
                took = work.seconds(device.time, self.ledger.weight_format)
                yield Choice(task, rates, self.held + max(0, added), None if took is None else took.total)

    def _rank(self, choice: Choice, tasks: Sequence[Task]) -> tuple[float, ...]:
        label = choice.rates.label(choice.task)
        wer = self.options.wers.get(WerKey(choice.task, label, self.num_beams, self.ledger.weight_format))
        tokens = sum(1 / choice.rates.of(modality) for modality in choice.task.modalities)
        return (wer is None, 0.0 if wer is None else wer, tasks.index(choice.task), -tokens)

    def _within(self, task: Task) -> list[Task]:
        """The tasks of the model that read some of what ``task`` reads."""
        return [t for t in self.config.tasks if set(t.modalities) < set(task.modalities)]

    def _usable(self, recording: Recording) -> tuple[Task, tuple[str, ...]]:
        """The task without the stream that is of no use, and why; as it is where both or none are."""
        if recording.task is not Task.AVSR:
            return recording.task, ()
        assert recording.waveform is not None
        assert recording.crops is not None
        snr_db = estimate_snr(torch.from_numpy(recording.waveform))
        visible = visible_share(recording.crops)
        bad_sound, bad_pictures = snr_db < self.options.min_snr_db, visible < self.options.min_visible
        within = self._within(Task.AVSR)
        if bad_sound and not bad_pictures and Task.VSR in within:
            heard = "is silent" if snr_db == float("-inf") else f"has some {snr_db:.0f} dB of speech over noise"
            return Task.VSR, (f"vsr in place of avsr: the sound {heard}",)
        if bad_pictures and not bad_sound and Task.ASR in within:
            return Task.ASR, (f"asr in place of avsr: {1 - visible:.0%} of the pictures show nothing",)
        return Task.AVSR, ()


def _reduced(recording: Recording, task: Task, notes: tuple[str, ...]) -> Recording:
    """What ``task`` reads of a recording."""
    return replace(
        recording,
        task=task,
        waveform=recording.waveform if Modality.AUDIO in task.modalities else None,
        crops=recording.crops if Modality.VIDEO in task.modalities else None,
        notes=(*recording.notes, *notes),
    )
