"""What is trained in the experiment: strategy, task, learning rate and seed, and how far."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

from omni_avsr.types import Modality, Task

STRATEGIES = ("projector_only", "frozen_encoder", "joint", "projector_then_joint", "efin")
"""Stage configs of conf/stages, without the task in their names."""
POINTS = {
    Task.ASR: dict.fromkeys(STRATEGIES, (20, 40, 80, 160, 320, 640)),
    Task.VSR: {"joint": (300, 600, 1050, 1250), "efin": (40, 80, 160, 320)},
}
"""Steps of the last stage at which a run is scored, by task and strategy.

A joint step of VSR trains the video encoder on a quarter of the clips that a step of EFIN's first stage has.
"""
NUM_TRIED = {Task.ASR: 5, Task.VSR: 3}
"""Points of a try; the one of the chosen learning rate goes on to the last point."""
NUM_COMPARED = 2
"""Points at the end of a try that choose: before, all are on the plateau of a grammar without words."""
LR_SCALES = (0.33, 1.0, 3.0)
"""A try multiplies the learning rates of all stages by one of these: as many tries for each strategy."""
SEEDS = (7, 8, 9)
NUM_CHEAP = 4
"""Points that all seeds have before any has the dearer ones."""
ENCODER_STEPS = {Task.ASR: 50, Task.VSR: 600}
"""EFIN's first stage."""
OTHER_ENCODER_STEPS = {Task.ASR: (15, 200), Task.VSR: ()}
PROJECTOR_STEPS = 20
"""Of a projector stage that is not the last."""
SNR_DB = 5.0
TRAINING_SNR_DB = (0.0, 2.5, 5.0, 7.5, 10.0)


@dataclass(frozen=True)
class Arm:
    """One run. points: of the last stage, at which it is scored. decayed: its rate falls to zero at the only point."""

    strategy: str
    task: Task
    lr_scale: float
    seed: int
    points: tuple[int, ...]
    encoder_steps: int
    decayed: bool = False

    @property
    def usual_split(self) -> bool:
        return self.encoder_steps == ENCODER_STEPS[self.task]

    @property
    def name(self) -> str:
        split = "" if self.usual_split else f"-encoder-{self.encoder_steps}"
        return f"{self.strategy}-{self.task}{split}-x{self.lr_scale:g}-{self.seed}{'-decayed' if self.decayed else ''}"

    @property
    def levels(self) -> tuple[float, ...]:
        """SNRs that it is scored at beside clean speech."""
        return (SNR_DB,) if Modality.AUDIO in self.task.modalities else ()


def tries() -> list[Arm]:
    """All strategies at all learning rates with one seed, ASR first."""
    return [
        _arm(strategy, task, scale, SEEDS[0], points[: NUM_TRIED[task]])
        for task, of_task in POINTS.items()
        for (strategy, points), scale in product(of_task.items(), LR_SCALES)
    ]


def follow_ups(chosen: Mapping[tuple[str, Task], float]) -> list[Arm]:
    """What is worth running at the learning rate that was chosen for a strategy, cheap points first.

    The last point of the try; for ASR other seeds, and a decayed run, which tells what the constant rate costs; EFIN
    with other lengths of its first stage. ``chosen``: scales by strategy and task.
    """
    heard = [(strategy, scale) for (strategy, task), scale in chosen.items() if task is Task.ASR]
    return [
        *(_arm(strategy, task, scale, SEEDS[0]) for (strategy, task), scale in chosen.items()),
        *(_arm(s, Task.ASR, x, seed, POINTS[Task.ASR][s][:NUM_CHEAP]) for seed in SEEDS[1:] for s, x in heard),
        *(_arm(s, Task.ASR, x, SEEDS[0], POINTS[Task.ASR][s][-1:], decayed=True) for s, x in heard),
        *(
            Arm(strategy, task, scale, SEEDS[0], POINTS[task][strategy], steps)
            for (strategy, task), scale in chosen.items()
            if strategy == "efin"
            for steps in OTHER_ENCODER_STEPS[task]
        ),
        *(_arm(s, Task.ASR, x, seed) for seed in SEEDS[1:] for s, x in heard),
    ]


def _arm(
    strategy: str, task: Task, scale: float, seed: int, points: Sequence[int] | None = None, decayed: bool = False
) -> Arm:
    return Arm(strategy, task, scale, seed, tuple(points or POINTS[task][strategy]), ENCODER_STEPS[task], decayed)
