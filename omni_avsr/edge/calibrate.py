"""Measure a device: processes that transcribe clips of noise, and the ledger's constants that follow from them."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from omni_avsr.config import CompactAudioConfig, CompressionConfig, LLMConfig, ModelConfig, to_mapping
from omni_avsr.edge.device import Device, device_facts
from omni_avsr.edge.fit import MemoryRun, Timed, fit_memory, fit_time
from omni_avsr.edge.ledger import MemoryLedger, WeightFormat, in_format, memory_ledger
from omni_avsr.edge.probe import Figures, Probe, measure
from omni_avsr.edge.request import Request
from omni_avsr.edge.timing import WorkLedger
from omni_avsr.features import MOUTH_SIZE, SAMPLE_RATE, VIDEO_FPS
from omni_avsr.media import write_audio, write_video
from omni_avsr.provenance import commit, today
from omni_avsr.recording import Tell, tell_nobody
from omni_avsr.shapes import shaped_model
from omni_avsr.types import Modality, Rates, Task

_HEARER = CompactAudioConfig(dim=16, num_layers=1, num_heads=2, kernel=3, ctc=False)
_BARE_LLM = {
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "vocab_size": 256,
    "tie_word_embeddings": True,
}
"""Layers that have next to nothing to compute."""
_NOISE = 0.1


@dataclass(frozen=True)
class Calibration:
    """What is measured, and how.

    checkpoint: a folder; None takes random weights in the shape of ``model``. formats: of the LLM's weights, the first
    for memory. seconds: a short and a long clip. limit: bytes that no process may pass.
    """

    model: ModelConfig
    checkpoint: Path | None
    formats: Sequence[WeightFormat]
    task: Task
    rates: Rates
    seconds: tuple[float, float]
    new_tokens: int
    repetitions: int
    limit: int


@dataclass(frozen=True)
class Check:
    """A run with the peak that the ledger, once it has its constants, gives for it. is_fitted: by this very run."""

    weight_format: WeightFormat
    request: Request
    predicted: int
    measured: int
    is_fitted: bool


@dataclass(frozen=True)
class _Run:
    weight_format: WeightFormat
    ledger: MemoryLedger
    request: Request
    figures: Figures


def calibrate(settings: Calibration, tell: Tell = tell_nobody) -> tuple[Device, list[Check], dict[WeightFormat, str]]:
    """Measure, and fit.

    Returns:
        The device, its runs beside what the ledger gives for them, and why formats could not be measured.

    Raises:
        ValueError: the first format cannot be measured, or what was measured makes no sense.
    """
    planned = replace(settings.model, llm=replace(settings.model.llm, quantization=None))
    outline = shaped_model(planned, 0, "meta")
    runs: list[_Run] = []
    skipped: dict[WeightFormat, str] = {}
    first = settings.formats[0]
    todo = [(first, settings.seconds[1]), *((name, settings.seconds[0]) for name in settings.formats)]
    with tempfile.TemporaryDirectory() as folder:
        for number, (name, seconds) in enumerate(todo):
            tell("measuring", number, len(todo) + 1)
            request = Request(settings.task, settings.rates, seconds, settings.new_tokens)
            ledger = memory_ledger(outline, *in_format(name, settings.model.llm))
            try:
                figures = _measured(_probe(settings, name, request, Path(folder)), settings.limit)
            except ValueError as error:
                if name == first:
                    raise
                skipped[name] = str(error)
                continue
            runs.append(_Run(name, ledger, request, figures))
        tell("measuring", len(todo), len(todo) + 1)
        layer = _layer_seconds(settings, memory_ledger(outline).llm.num_layers, Path(folder))
    fitted = [run for run in runs if run.weight_format == first]
    libraries = max(run.figures.libraries for run in runs)
    memory = fit_memory(libraries, [MemoryRun(run.ledger, run.request, run.figures.peak) for run in fitted])
    device = Device(
        memory=memory,
        time=fit_time(layer, [_timed(run) for run in runs]),
        facts=device_facts(),
        commit=commit(),
        date=today(),
        measured=tuple(_record(run) for run in runs),
    )
    checks = [
        Check(
            run.weight_format,
            run.request,
            run.ledger.transcribing(run.request, memory).peak,
            run.figures.peak,
            run in fitted,
        )
        for run in runs
    ]
    return device, checks, skipped


def write_noise_clip(folder: Path, seconds: float) -> dict[Modality, Path]:
    """A clip of noise, in sound and in mouth crops."""
    generator = np.random.default_rng(0)
    audio, video = folder / f"{seconds:g}.wav", folder / f"{seconds:g}.mp4"
    write_audio(audio, _NOISE * generator.standard_normal(round(seconds * SAMPLE_RATE)))
    blocks = generator.integers(0, 256, (round(seconds * VIDEO_FPS), 4, 4), dtype=np.uint8)
    write_video(video, blocks.repeat(MOUTH_SIZE // 4, 1).repeat(MOUTH_SIZE // 4, 2))
    return {Modality.AUDIO: audio, Modality.VIDEO: video}


def _probe(settings: Calibration, name: WeightFormat, request: Request, folder: Path) -> Probe:
    dtype, quantization = in_format(name, settings.model.llm)
    clip = write_noise_clip(folder, request.seconds)
    if settings.checkpoint is not None:
        return Probe(
            request,
            clip,
            checkpoint=settings.checkpoint,
            llm_dtype=dtype,
            quantization=quantization or "none",
            repetitions=settings.repetitions,
        )
    llm = replace(settings.model.llm, dtype=dtype, quantization=quantization)
    return Probe(request, clip, model=replace(settings.model, llm=llm), repetitions=settings.repetitions)


def _measured(probe: Probe, limit: int) -> Figures:
    outcome, figures = measure(probe, limit)
    outcome.check()
    assert figures is not None
    return figures


def _layer_seconds(settings: Calibration, num_layers: int, folder: Path) -> float:
    """Seconds that a layer of the LLM with its adapters costs whatever its size."""
    model = ModelConfig(
        llm=LLMConfig("bare"),
        audio_encoder=_HEARER,
        compression=CompressionConfig(audio_rates=(settings.rates.audio,)),
        adapters=replace(settings.model.adapters, rank=1),
    )
    probe = Probe(
        Request(Task.ASR, settings.rates, settings.seconds[0], settings.new_tokens),
        write_noise_clip(folder, settings.seconds[0]),
        model=model,
        llm_shape={**_BARE_LLM, "num_hidden_layers": num_layers},
        repetitions=settings.repetitions,
    )
    step = _measured(probe, settings.limit).step
    assert step is not None
    return step / num_layers


def _timed(run: _Run) -> Timed:
    figures = run.figures
    assert figures.prompt is not None and figures.step is not None  # noqa: PT018
    return Timed(
        WorkLedger(run.ledger).of(run.request), run.weight_format, figures.encoding, figures.prompt, figures.step
    )


def _record(run: _Run) -> dict[str, Any]:
    return {"weight_format": run.weight_format, "request": to_mapping(run.request), **to_mapping(run.figures)}
