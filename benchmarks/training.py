"""One training step of the three tasks, split into encoding, the LLM's forward passes, backward and the optimizer."""

from __future__ import annotations

import torch

from benchmarks.cases import TrainingCase
from benchmarks.laps import Laps
from benchmarks.measure import Stopwatch, peak_memory_mib, pin_threads, read_case, repeat, write_figures
from benchmarks.models import random_inputs, random_model, random_texts
from omni_avsr.config import PUBLISHED_TASK_WEIGHTS
from omni_avsr.stages import OptimizerConfig, freeze_all_but, set_modes
from omni_avsr.types import Rates, Task

TRAINABLE = ("projectors.*", "markers.*", "llm.*lora_*")
"""The stage that costs most through the LLM: projectors, markers and adapters, encoders frozen."""


def measure(case: TrainingCase) -> dict[str, float]:
    """The figures of one training step."""
    model = random_model(case.size, case.seed)
    freeze_all_but(model, TRAINABLE)
    set_modes(model)
    laps = Laps(model)
    if case.gradient_checkpointing:
        model.router.enable_gradient_checkpointing(model.llm)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, OptimizerConfig().lr)
    inputs, texts = random_inputs(case.clip_seconds, case.seed), random_texts(case.clip_seconds)
    rates = Rates(case.audio_rate, case.video_rate)
    weights = {task: weight / len(Task) for task, weight in PUBLISHED_TASK_WEIGHTS.items()}
    num_label_tokens = dict.fromkeys(Task, sum(len(model.text.encode(text)) + 1 for text in texts))
    counts: dict[str, int] = {}

    def step() -> Stopwatch:
        optimizer.zero_grad()
        watch = laps.restart()
        features = model.encode(inputs)
        watch.lap("encode")
        output = model.loss(features, texts, rates, weights, num_label_tokens)
        output.loss.backward()
        watch.lap("backward")
        optimizer.step()
        watch.lap("optimizer")
        watch.join(Laps.FORWARD, "forward")
        counts.update(real=output.num_llm_tokens, padded=output.num_padded_tokens)
        return watch

    build_peak = peak_memory_mib()
    seconds = repeat(step, case.num_warmups, case.num_repetitions)
    return seconds | {
        "clips_per_second": len(texts) / seconds["total_seconds"],
        "llm_tokens": counts["real"],
        "llm_tokens_per_second": counts["real"] / seconds["total_seconds"],
        "padded_token_share": 1 - counts["real"] / counts["padded"],
        "trainable_parameters": sum(parameter.numel() for parameter in trained),
        "build_peak_memory_mib": build_peak,
        "peak_memory_mib": peak_memory_mib(),
    }


if __name__ == "__main__":
    pin_threads()
    write_figures(measure(TrainingCase(**read_case())))
