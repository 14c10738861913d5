"""What can be counted of a paper's row without training it: models, LLM passes, parameters, tokens a second."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

from pydantic.dataclasses import dataclass
from torch import nn

from omni_avsr.adapters import ROUTES
from omni_avsr.compression import task_rates
from omni_avsr.config import STRICT, AdapterConfig, ModelConfig, Positive
from omni_avsr.objectives.recognition import step_passes
from omni_avsr.shapes import shaped_model
from omni_avsr.stages import RecognitionObjectiveConfig, StageConfig, freeze_all_but
from omni_avsr.types import Rates, Task


@dataclass(frozen=True, config=STRICT)
class Facts:
    """The countable facts of an experiment, over all the models that it trains.

    llm_passes: of one step, over all models.
    trained_parameters: of one model, by the tasks that it trains ("asr+vsr+avsr").
    active_parameters: how many of them AVSR uses at one pair of rates.
    lora_set: parameters of one adapter in all layers of the LLM.
    projector: parameters of one projector.
    tokens_per_second: of audio and video that the LLM reads, by task and rates ("avsr 4,2").
    """

    models: Positive
    llm_passes: Positive
    trained_parameters: dict[str, Positive]
    active_parameters: Positive
    lora_set: Positive
    projector: Positive
    tokens_per_second: dict[str, float]


def count(jobs: Sequence[tuple[ModelConfig, StageConfig]]) -> Facts:
    """Count on models of the public sizes without weights; a job is a model and the stage that trains it.

    Raises:
        ValueError: a base model's size is not known, no job trains AVSR, or jobs differ where a row has one number.
    """
    trained, active = defaultdict(set), set()
    sets: set[int] = set()
    projectors: set[int] = set()
    tokens_per_second: dict[str, float] = {}
    num_passes = 0
    for config, stage in jobs:
        objective = stage.objective
        assert isinstance(objective, RecognitionObjectiveConfig)
        num_passes += sum(map(len, step_passes(objective, config.compression, seed=0, step=0).values()))
        model = shaped_model(config, seed=0, device="meta")
        freeze_all_but(model, stage.trainable)
        sizes = _trained_sizes(model)
        trained[_key(objective)].add(sum(sizes.values()))
        sets |= _grouped(sizes, "llm.", -2)
        projectors |= _grouped(sizes, "projectors.", 3)
        for task in objective.tasks:
            for rates in task_rates(config.compression, task):
                of_modalities = (model.frame_rates[modality] / rates.of(modality) for modality in task.modalities)
                tokens_per_second[f"{task} {rates.label(task)}"] = sum(of_modalities)
        if Task.AVSR in objective.tasks:
            rates = task_rates(config.compression, Task.AVSR)[0]
            active.add(sum(size for name, size in sizes.items() if _is_active(name, rates, config.adapters)))
    return Facts(
        models=len(jobs),
        llm_passes=num_passes,
        trained_parameters={tasks: _one(found, f"parameters of {tasks}") for tasks, found in trained.items()},
        active_parameters=_one(active, "active parameters at AVSR"),
        lora_set=_one(sets, "parameters of an adapter"),
        projector=_one(projectors, "parameters of a projector"),
        tokens_per_second=tokens_per_second,
    )


def check_trained(facts: Facts, stage: StageConfig, model: nn.Module) -> None:
    """Raise ValueError when ``model``, frozen for ``stage``, trains another number of parameters than ``facts`` say."""
    if not isinstance(stage.objective, RecognitionObjectiveConfig):
        return
    tasks, found = _key(stage.objective), sum(_trained_sizes(model).values())
    if tasks not in facts.trained_parameters:
        raise ValueError(f"facts.trained_parameters has no {tasks}, only {', '.join(facts.trained_parameters)}")
    if (expected := facts.trained_parameters[tasks]) != found:
        raise ValueError(
            f"this model trains {found:,} parameters, but facts.trained_parameters says {expected:,} for {tasks}: it "
            "is not the experiment's model. Undo what changed its size, or set facts=null if you meant to"
        )


def _key(objective: RecognitionObjectiveConfig) -> str:
    return "+".join(objective.tasks)


def _trained_sizes(model: nn.Module) -> dict[str, int]:
    return {name: value.numel() for name, value in model.named_parameters() if value.requires_grad}


def _grouped(sizes: dict[str, int], prefix: str, *places: int) -> set[int]:
    """Sums over the names with ``prefix`` that agree in these dotted parts (and in the part behind the prefix)."""
    sums: dict[tuple[str, ...], int] = defaultdict(int)
    for name, size in sizes.items():
        if name.startswith(prefix):
            parts = name.split(".")
            sums[parts[1], *(parts[place] for place in places)] += size
    return set(sums.values())


def _is_active(name: str, rates: Rates, adapters: AdapterConfig) -> bool:
    """Whether AVSR at ``rates`` uses a trained parameter."""
    parts = name.split(".")
    if parts[0] == "projectors":
        return parts[3] in ("shared", str(rates.audio if parts[1] == "audio" else rates.video))
    return parts[0] != "llm" or parts[-2] in ROUTES[adapters.strategy][Task.AVSR]


def _one(found: Iterable[int], what: str) -> int:
    values = sorted(found)
    if len(values) != 1:
        raise ValueError(f"an experiment has one number of {what}, not {values}")
    return values[0]
