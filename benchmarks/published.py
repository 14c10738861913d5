"""The published recipe's step with small models, split into encoders, assembly, the LLM, the loss and backward."""

from __future__ import annotations

from benchmarks.cases import PublishedCase
from benchmarks.laps import Laps
from benchmarks.measure import Stopwatch, peak_memory_mib, pin_threads, read_case, repeat, write_figures
from benchmarks.models import published_model, random_inputs, random_texts
from omni_avsr.config import PUBLISHED_TASK_WEIGHTS
from omni_avsr.stages import freeze_all_but, set_modes
from omni_avsr.types import Features, Modality, Rates, Task

TRAINABLE = ("projectors.*", "encoders.video.*lora_*", "llm.*lora_*")


def measure(case: PublishedCase) -> dict[str, float]:
    """The figures of one forward and backward pass."""
    model = published_model(case.size, "shared", "float32", case.seed)
    freeze_all_but(model, TRAINABLE)
    set_modes(model)
    laps = Laps(model)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    inputs, texts = random_inputs(case.clip_seconds, case.seed), random_texts(case.clip_seconds)
    rates = Rates(case.audio_rate, case.video_rate)
    weights = {task: weight / len(Task) for task, weight in PUBLISHED_TASK_WEIGHTS.items()}

    def step() -> Stopwatch:
        for parameter in trained:
            parameter.grad = None
        watch = laps.restart()
        features: dict[Modality, Features] = {}
        for modality in Modality:
            features |= model.encode({modality: inputs[modality]})
            watch.lap(f"encode_{modality}")
        loss = model.loss(features, texts, rates, weights, num_label_tokens=None).loss
        loss.backward()
        watch.lap("backward")
        return watch

    build_peak = peak_memory_mib()
    seconds = repeat(step, case.num_warmups, case.num_repetitions)
    return seconds | {
        "clips_per_second": len(texts) / seconds["total_seconds"],
        "trainable_parameters": sum(parameter.numel() for parameter in trained),
        "build_peak_memory_mib": build_peak,
        "peak_memory_mib": peak_memory_mib(),
    }


if __name__ == "__main__":
    pin_threads()
    write_figures(measure(PublishedCase(**read_case())))
