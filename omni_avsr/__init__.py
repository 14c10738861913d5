"""Unified audio-visual speech recognition with one LLM.

>>> import omni_avsr
>>> model = omni_avsr.load("experiments/001-grid-s1/checkpoint")
>>> model.transcribe("clip.mp4", task="avsr", rates=(4, 2))
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from omni_avsr.config import DType, QuantizationChoice
    from omni_avsr.transcribe import Transcriber
    from omni_avsr.types import Task

__version__ = "0.1.0"


def load(
    folder: str | Path,
    device: str = "cpu",
    llm_dtype: DType | None = None,
    face_model: Path | None = None,
    revision: str | None = None,
    quantization: QuantizationChoice | None = None,
    merged_task: Task | str | None = None,
    encoders: Path | None = None,
) -> Transcriber:
    """Load a checkpoint from a folder or the Hub; see ``omni_avsr.transcribe.load``. Imports torch only now."""
    from omni_avsr.transcribe import load as load_transcriber

    return load_transcriber(folder, device, llm_dtype, face_model, revision, quantization, merged_task, encoders)
