"""What a board's memory leaves to one process, and the profiles that say it in ``conf/profile``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from omni_avsr.config import STRICT, DType, Positive, Quantization
from omni_avsr.edge.meter import GIB

RESERVED_GIB = 1.5
"""Of the system without a desktop and, where there is a GPU, of its context, whatever the board's size."""
RESERVED_SHARE = 1 / 16
"""Of the memory, that goes with its size: page tables, the kernel's reserves, files that are being read."""
_MEMORY = re.compile(r"\s*([0-9.]+)\s*(GB|GiB|G|MB|MiB|M)?\s*", re.IGNORECASE)
_LEAST_GIB = 0.25


@dataclass(frozen=True, config=STRICT)
class Profile:
    """A kind of device: the same model, other numbers. Configs take them by their names, so each can be overridden.

    process_gib: what one process may have, which is checked before anything is loaded. device: what calibrate-device
    wrote, for that check. llm_dtype, quantization: of the LLM's frozen weights. batch_size, num_beams: of evaluation.
    precision, max_frames, gradient_checkpointing: of training.
    """

    process_gib: Annotated[float, Field(gt=0)]
    device: Path | None = None
    llm_dtype: DType = "bfloat16"
    quantization: Quantization | None = None
    batch_size: Positive = 1
    num_beams: Positive = 1
    precision: Literal["32-true", "bf16-mixed"] = "bf16-mixed"
    max_frames: Positive = 500
    gradient_checkpointing: bool = True

    @property
    def process_bytes(self) -> int:
        return int(self.process_gib * GIB)


def memory_gib(text: str) -> float:
    """The memory of a board such as ``8GB`` in GiB, which is what is meant on boards. ValueError for anything else."""
    match = _MEMORY.fullmatch(text)
    try:
        amount = float(match[1]) if match else 0.0
    except ValueError:
        amount = 0.0
    if match is None or not 0 < amount < float("inf"):
        raise ValueError(f"memory {text!r}: give the board's, such as 8GB")
    return amount / 1024 if (match[2] or "G").upper().startswith("M") else amount


def process_bytes(board_gib: float) -> int:
    """What a board of so much memory, shared by CPU and GPU, leaves to one process: 6.0 GiB of 8.

    ValueError when that is next to nothing.
    """
    left = board_gib - RESERVED_GIB - RESERVED_SHARE * board_gib
    if left < _LEAST_GIB:
        raise ValueError(
            f"a board of {board_gib:g} GB leaves {max(left, 0.0):.2f} GiB to a process, next to nothing: the system "
            f"takes {RESERVED_GIB:g} GiB and a sixteenth"
        )
    return int(left * GIB)
