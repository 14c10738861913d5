"""Decoding one batch for one task at its rates: real-time factor, passes of the LLM, memory."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.cases import DecodingCase
from benchmarks.measure import Stopwatch, peak_memory_mib, pin_threads, read_case, repeat, write_figures
from benchmarks.models import random_inputs, random_model
from omni_avsr.model import OmniAVSR
from omni_avsr.types import Rates, Task


class PassCounter:
    """Counts the forward passes of an LLM and how many positions those over the prompt read (with beams, two)."""

    def __init__(self, llm: nn.Module) -> None:
        self.reset()
        llm.register_forward_pre_hook(self._count, with_kwargs=True)

    def reset(self) -> None:
        self.passes = self.prompt_positions = 0

    def _count(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.passes += 1
        embeds = kwargs.get("inputs_embeds")
        if isinstance(embeds, Tensor):
            self.prompt_positions += embeds.shape[1]


def measure(case: DecodingCase) -> dict[str, float]:
    """The figures of decoding one batch."""
    model = random_model(case.size, case.seed)
    written = _fix_new_tokens(model, case.num_new_tokens)
    task, rates = Task(case.task), Rates(case.audio_rate, case.video_rate)
    every_input = random_inputs(case.clip_seconds, case.seed)
    inputs = {modality: every_input[modality] for modality in task.modalities}
    counter = PassCounter(model.llm)

    @torch.no_grad()
    def run() -> Stopwatch:
        counter.reset()
        watch = Stopwatch()
        features = model.encode(inputs)
        watch.lap("encode")
        model.generate(features, task, rates, case.num_beams, case.num_new_tokens)
        watch.lap("generate")
        return watch

    build_peak = peak_memory_mib()
    seconds = repeat(run, case.num_warmups, case.num_repetitions)
    if set(written) != {case.num_new_tokens}:
        raise RuntimeError(f"{sorted(set(written))} new tokens instead of {case.num_new_tokens}")
    media_seconds = sum(case.clip_seconds)
    return seconds | {
        "media_seconds": media_seconds,
        "real_time_factor": seconds["total_seconds"] / media_seconds,
        "clips_per_second": len(case.clip_seconds) / seconds["total_seconds"],
        "prompt_tokens": counter.prompt_positions,
        "new_tokens": case.num_new_tokens,
        "llm_passes": counter.passes,
        "build_peak_memory_mib": build_peak,
        "peak_memory_mib": peak_memory_mib(),
    }


def _fix_new_tokens(model: OmniAVSR, count: int) -> list[int]:
    """Keep ``model`` from ending a text before ``count`` tokens: random weights end anywhere or nowhere.

    Returns a list to which every call of the LLM's ``generate`` appends how many tokens it wrote.
    """
    # transformers takes from here what the call's own settings leave open.
    model.text.model.generation_config.min_new_tokens = count
    llm: Any = model.llm
    generate, written = llm.generate, []

    def counted(**arguments: Any) -> Tensor:
        ids = generate(**arguments)
        written.append(ids.shape[1])
        return ids

    llm.generate = counted
    return written


if __name__ == "__main__":
    pin_threads()
    write_figures(measure(DecodingCase(**read_case())))
