"""The published recipe at its size: one step and one transcript, and a ledger of where the bytes are."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from benchmarks.cases import RealSizeCase
from benchmarks.laps import Laps
from benchmarks.measure import Stopwatch, peak_memory_mib, pin_threads, read_case, write_figures
from benchmarks.models import published_model, random_inputs, random_texts
from benchmarks.published import TRAINABLE
from omni_avsr.config import PUBLISHED_TASK_WEIGHTS
from omni_avsr.model import OmniAVSR
from omni_avsr.stages import OptimizerConfig, freeze_all_but, set_modes
from omni_avsr.types import Rates, Task

PARTS = ("audio_encoder", "video_encoder", "llm", "embeddings", "adapters", "projectors")


def measure(case: RealSizeCase) -> dict[str, float]:
    """The figures of building, one step with AdamW under bfloat16 autocast, and one clip of AVSR read greedily."""
    libraries = peak_memory_mib()
    build = Stopwatch()
    model = published_model(case.size, "hybrid", "bfloat16", case.seed)
    build.lap("build")
    build_peak = peak_memory_mib()
    freeze_all_but(model, TRAINABLE)
    set_modes(model)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, OptimizerConfig().lr)
    texts, rates = random_texts(case.clip_seconds), Rates(case.audio_rate, case.video_rate)
    weights = {task: weight / len(Task) for task, weight in PUBLISHED_TASK_WEIGHTS.items()}
    laps = Laps(model)
    step = laps.restart()
    with torch.autocast("cpu", torch.bfloat16):
        features = model.encode(random_inputs(case.clip_seconds, case.seed))
        step.lap("encode")
        loss = model.loss(features, texts, rates, weights, num_label_tokens=None).loss
    loss.backward()
    step.lap("backward")
    optimizer.step()
    step.lap("optimizer")
    step.join(Laps.FORWARD, "forward")
    if not bool(loss.isfinite()):
        raise RuntimeError(f"the loss is {float(loss.detach())}")
    held = _parts(model) | {
        "gradients": _mib(parameter.grad for parameter in trained if parameter.grad is not None),
        "optimizer": _mib(v for state in optimizer.state.values() for v in state.values() if isinstance(v, Tensor)),
    }
    step_peak = peak_memory_mib()
    model.eval()
    model.text.model.generation_config.min_new_tokens = case.num_new_tokens
    watch = laps.restart()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        features = model.encode(random_inputs(case.clip_seconds[:1], case.seed))
        model.generate(features, Task.AVSR, rates, max_new_tokens=case.num_new_tokens)
    watch.lap("generate")
    return (
        {f"{part}_seconds": seconds for part, seconds in step.seconds.items()}
        | {f"{part}_mib": size for part, size in held.items()}
        | {
            "build_seconds": build.seconds["build"],
            "generate_seconds": sum(watch.seconds.values()),
            "libraries_mib": libraries,
            "activations_mib": step_peak - libraries - sum(held.values()),
            "trainable_parameters": sum(parameter.numel() for parameter in trained),
            "media_seconds": sum(case.clip_seconds),
            "new_tokens": case.num_new_tokens,
            "build_peak_memory_mib": build_peak,
            "peak_memory_mib": peak_memory_mib(),
        }
    )


def _parts(model: OmniAVSR) -> dict[str, float]:
    """MiB of the weights and buffers of each of ``PARTS``."""
    embeddings = model.llm.get_input_embeddings().weight  # type: ignore[operator]
    tensors: dict[str, list[Tensor]] = {part: [] for part in PARTS}
    for name, value in (*model.named_parameters(), *model.named_buffers()):
        if value is embeddings:
            part = "embeddings"
        elif ".lora_" in name:
            part = "adapters"
        elif name.startswith("encoders."):
            part = f"{name.split('.')[1]}_encoder"
        else:
            part = "llm" if name.startswith("llm.") else "projectors"
        tensors[part].append(value)
    return {part: _mib(values) for part, values in tensors.items()}


def _mib(tensors: Iterable[Tensor]) -> float:
    return sum(tensor.nbytes for tensor in tensors) / 1024**2


if __name__ == "__main__":
    pin_threads()
    write_figures(measure(RealSizeCase(**read_case())))
