"""What is tried on each talker: where it starts, what it trains, and at how many steps it is scored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

from omni_avsr.types import Task

TALKERS = ("s30", "s31", "s32", "s33", "s35", "s36", "s37", "s39")
SEED = 7
POINTS = (10, 30, 100)
"""Steps of the last stage at which an arm is scored."""
NEW_POINTS = (30, 100, 300)
"""Of EmbedLink with a new projector, which has more to learn."""
POLISH_POINTS = (10, 30)
GRID = "grid"
"""Experiment 001's checkpoint; the other bases are those of bases.py."""
INSTRUCTION = "Repeat what is said."
"""What is injected behind the projected speech; the paper does not give its own. Ours, as all numbers here."""


@dataclass(frozen=True)
class Method:
    """base: where it starts. stages: as of any run, the last one's length apart. points: of the last stage."""

    base: str
    stages: Mapping[str, Mapping[str, Any]]
    points: tuple[int, ...] = POINTS
    new_projector: bool = False


def _stage(objective: Mapping[str, Any], trainable: str, lr: float, clips: int, num_steps: int = 1) -> dict[str, Any]:
    return {
        "objective": dict(objective),
        "trainable": [trainable],
        "num_steps": num_steps,
        "optimizer": {"lr": lr, "weight_decay": 0.01, "warmup_steps": 5, "clip_norm": 1.0, "schedule": "constant"},
        "batching": {"max_clips": clips, "max_frames": 2000},
        "augment": None,
        "feature_variants": 1,
        "validate_every": 100_000,
    }


THROUGH_LLM = {"kind": "recognition", "task_weights": {Task.ASR: 1.0}}
POOLED = {"kind": "embed_link", "targets": "pooled"}
HEARD = {"kind": "embed_link", "targets": "heard", "contrast_weight": 1.0}
ADAPTERS, PROJECTORS = "llm.*lora_*", "projectors.audio.*"
_LORA = {"adapters": _stage(THROUGH_LLM, ADAPTERS, 3e-4, 4)}
_PROJECTOR = {"projector": _stage(THROUGH_LLM, PROJECTORS, 3e-4, 4)}
_POOLED = {"link": _stage(POOLED, PROJECTORS, 1e-4, 8)}
_HEARD = {"link": _stage(HEARD, PROJECTORS, 1e-4, 8)}

METHODS: Mapping[str, Method] = {
    "lora": Method(GRID, _LORA),
    "projector": Method(GRID, _PROJECTOR),
    "new projector": Method(GRID, _PROJECTOR, new_projector=True),
    "embed_link": Method(GRID, {"link": _stage(POOLED, PROJECTORS, 3e-4, 8)}, NEW_POINTS, new_projector=True),
    "embed_link from s1": Method("pooled", _POOLED),
    "embed_link from s1, read": Method("pooled-read", _POOLED),
    "embed_link from s1, heard": Method("heard", _HEARD),
    "embed_link from s1, heard and read": Method("heard-read", _HEARD),
    "embed_link from s1, polish": Method(
        "heard-read", {"link": _HEARD["link"] | {"num_steps": 10}, **_LORA}, POLISH_POINTS
    ),
}
"""The usual ways, through the LLM; the paper's; and named variants of ours.

new projector: a BridgeFormer that knows nothing, as that of embed_link, which makes these two the paper's comparison.
from s1: the projector met the embeddings on s1 before. heard: word by word, where the CTC head hears them, with a
contrast over the vocabulary. read: the adapters learnt on s1 to read such tokens. polish: both of these, with a short
lora at the end.
"""


@dataclass(frozen=True)
class Arm:
    """One method on one talker; without a method it is the base alone, as it is."""

    talker: str
    method: str | None
    base: str = GRID

    @property
    def name(self) -> str:
        return f"{(self.method or f'none-{self.base}').replace(' ', '-').replace(',', '')}-{self.talker}"


def arms() -> list[Arm]:
    """All bases as they are, then all methods; the talkers of each one after another."""
    bases = dict.fromkeys(method.base for method in METHODS.values())
    return [
        *(Arm(talker, None, base) for base, talker in product(bases, TALKERS)),
        *(Arm(talker, name, method.base) for (name, method), talker in product(METHODS.items(), TALKERS)),
    ]
