"""One transcription in a process of its own: what it takes, and how long.

``measure`` starts the process; it runs ``python -m omni_avsr.edge.probe PROBE`` and writes its figures as JSON.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Callable
from dataclasses import field
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass

from omni_avsr.checkpoint import load_checkpoint
from omni_avsr.config import STRICT, DType, ModelConfig, QuantizationChoice, from_mapping, to_mapping
from omni_avsr.edge.allocator import return_large_blocks
from omni_avsr.edge.meter import Outcome, resident, run_limited
from omni_avsr.edge.request import Request
from omni_avsr.features import prepare_video, prepare_waveform
from omni_avsr.media import read_audio, read_video
from omni_avsr.model import OmniAVSR
from omni_avsr.pieces import Piece, say
from omni_avsr.recording import Recording
from omni_avsr.shapes import shaped_model
from omni_avsr.types import Features, Modality, Task
from omni_avsr.windows import Window


@dataclass(frozen=True, config=STRICT)
class Probe:
    """What a process does.

    request: as many tokens are written as it says, whatever the model would end with. clip: files with the clip's sound
    and its mouth crops. checkpoint: a folder; None builds ``model`` with random weights, its LLM by ``llm_shape`` where
    that is given. repetitions: for the clock; the fastest counts.
    """

    request: Request
    clip: dict[Modality, Path]
    checkpoint: Path | None = None
    model: ModelConfig | None = None
    llm_shape: dict[str, Any] | None = None
    llm_dtype: DType | None = None
    quantization: QuantizationChoice | None = None
    repetitions: Annotated[int, Field(ge=0)] = 0

    def __post_init__(self) -> None:
        if (self.checkpoint is None) == (self.model is None):
            raise ValueError("a probe takes a checkpoint or the settings of a model of random weights, one of them")


@dataclass(frozen=True, config=STRICT)
class Figures:
    """What a process took.

    libraries, loaded, peak: bytes it had at most before it read the model, then, and after one transcription.
    encoding, prompt, step: seconds of the encoders, of the LLM up to its first token, and of each further token.
    """

    libraries: int
    loaded: int
    peak: int
    threads: int
    load_seconds: float
    encoding: dict[Modality, float] = field(default_factory=dict)
    prompt: float | None = None
    step: float | None = None


def measure(probe: Probe, limit: int) -> tuple[Outcome, Figures | None]:
    """Run a probe under a limit of bytes; no figures when it was killed.

    Raises:
        ValueError: it failed, with its last lines; or this system does not tell what memory a process has.
    """
    command = [sys.executable, "-m", __name__, json.dumps(to_mapping(probe))]
    outcome = run_limited(command, limit)
    if outcome.killed:
        return outcome, None
    outcome.check()
    return outcome, from_mapping(Figures, json.loads(outcome.output.splitlines()[-1]), "figures")


def run(probe: Probe) -> Figures:
    """What ``measure`` runs, in this process."""
    libraries, start = resident().peak, time.perf_counter()
    model = _model(probe)
    load_seconds, loaded = time.perf_counter() - start, resident().peak
    request = probe.request
    recording = read_clip(request.task, probe.clip)
    window = Window(0.0, recording.seconds, 0.0, recording.seconds)
    model.text.model.generation_config.min_new_tokens = request.new_tokens
    pieces = [Piece(recording, window)] * request.batch_size
    say(model, pieces, request.rates, request.num_beams, request.new_tokens)
    figures = Figures(libraries, loaded, resident().peak, torch.get_num_threads(), load_seconds)
    return figures if not probe.repetitions else _timed(model, recording, probe, figures)


def read_clip(task: Task, files: dict[Modality, Path]) -> Recording:
    """What ``task`` reads of a clip in files of sound and of mouth crops."""
    waveform = read_audio(files[Modality.AUDIO]) if Modality.AUDIO in task.modalities else None
    crops = read_video(files[Modality.VIDEO], grey=True) if Modality.VIDEO in task.modalities else None
    return Recording(next(iter(files.values())), task, waveform, crops)


def _model(probe: Probe) -> OmniAVSR:
    if probe.checkpoint is not None:
        return load_checkpoint(probe.checkpoint, probe.llm_dtype, probe.quantization)
    assert probe.model is not None
    return shaped_model(probe.model, seed=0, llm_shape=probe.llm_shape)


@torch.no_grad()
def _timed(model: OmniAVSR, recording: Recording, probe: Probe, figures: Figures) -> Figures:
    request, inputs = probe.request, {}
    if recording.waveform is not None:
        waveform = prepare_waveform(torch.from_numpy(recording.waveform), model.config.waveform)
        inputs[Modality.AUDIO] = Features.pad([waveform] * request.batch_size)
    if recording.crops is not None:
        inputs[Modality.VIDEO] = Features.pad([prepare_video(torch.from_numpy(recording.crops))] * request.batch_size)
    encoding = {m: _fastest(partial(model.encode, {m: part}), probe.repetitions) for m, part in inputs.items()}
    features = model.encode(inputs)

    def generate(new_tokens: int) -> None:
        model.text.model.generation_config.min_new_tokens = new_tokens
        model.generate_ids(features, request.task, request.rates, request.num_beams, new_tokens)

    prompt = _fastest(partial(generate, 1), probe.repetitions)
    whole = _fastest(partial(generate, request.new_tokens), probe.repetitions)
    step = max(0.0, whole - prompt) / max(1, request.new_tokens - 1)
    return Figures(**{**vars(figures), "encoding": encoding, "prompt": prompt, "step": step})


def _fastest(work: Callable[[], object], repetitions: int) -> float:
    """Seconds of the fastest repetition: what else runs on a device only adds to them."""
    seconds = []
    for _ in range(repetitions):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    return_large_blocks()  # as the command does that this stands for
    sys.stdout.write(json.dumps(to_mapping(run(from_mapping(Probe, json.loads(sys.argv[1]), "probe")))) + "\n")
    sys.stdout.flush()
    # What libraries touch as they are taken down (100 MiB of their files) is no part of a transcription.
    os._exit(0)
