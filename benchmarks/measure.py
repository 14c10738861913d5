"""Timing, peak memory, one process for each case, and the facts of the machine. Imports no torch by itself."""

from __future__ import annotations

import importlib.metadata
import json
import math
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.cases import AnyCase

ROOT = Path(__file__).resolve().parents[1]
NUM_THREADS = 1
DTYPE = "float32"
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")

UNITS: Mapping[str, str] = {
    "encode_seconds": "s, waveforms and crops to encoder features (log-mel included), median",
    "forward_seconds": "s, compression, projectors and the LLM's passes of all tasks to the losses' gradient, median",
    "backward_seconds": "s, median",
    "encode_audio_seconds": "s, waveforms to encoder features (log-mel included), median",
    "encode_video_seconds": "s, mouth crops to encoder features, median",
    "assemble_seconds": "s, compression, projectors and the assembly of sequences, all tasks, median",
    "llm_seconds": "s, forward passes of the LLM but for its output matrix, all tasks, median",
    "loss_seconds": "s, output matrix where labels stand, cross entropy and its gradient, all tasks, median",
    "build_seconds": "s, making the model",
    "optimizer_seconds": "s, AdamW step, median",
    "generate_seconds": "s, compression, projectors, the LLM's passes and reading the ids as text, median",
    "import_seconds": "s, median over fresh processes",
    "total_seconds": "s, all parts of a repetition, median",
    "fastest_seconds": "s, all parts, fastest repetition",
    "slowest_seconds": "s, all parts, slowest repetition",
    "search_decode_seconds": "s a clip, decoding for the search of faces, mean",
    "search_seconds": "s a clip, finding the points of faces, mean",
    "crop_decode_seconds": "s a clip, decoding again for the crops, mean",
    "crop_seconds": "s a clip, placing and cutting crops, mean",
    "video_encode_seconds": "s a clip, writing crops as H.264, mean",
    "audio_seconds": "s a clip, decoding and writing sound, mean",
    "times_real_time": "media_seconds over the seconds they took",
    "clips_per_second": "clips/s, from total_seconds",
    "llm_tokens": "real positions that the LLM reads in one step, all tasks",
    "llm_tokens_per_second": "real LLM positions/s, from total_seconds",
    "padded_token_share": "share of the LLM's positions that are padding, 0 to 1",
    "trainable_parameters": "parameters that the step trains",
    "media_seconds": "s of speech in the batch",
    "real_time_factor": "total_seconds / media_seconds; below 1 is faster than real time",
    "prompt_tokens": "LLM positions of one clip before the first new token",
    "new_tokens": "tokens written for each clip, fixed",
    "llm_passes": "forward passes of the LLM for the batch",
    "libraries_mib": "MiB resident before the model is made: interpreter and libraries",
    "audio_encoder_mib": "MiB of frozen weights of the audio encoder",
    "video_encoder_mib": "MiB of frozen weights of the video encoder",
    "llm_mib": "MiB of frozen weights of the LLM but for its embeddings",
    "embeddings_mib": "MiB of the LLM's embeddings, which are its output matrix too",
    "adapters_mib": "MiB of LoRA, of the LLM and of the video encoder",
    "projectors_mib": "MiB of the projectors and markers",
    "gradients_mib": "MiB of gradients after a step",
    "optimizer_mib": "MiB of the optimizer's state after a step",
    "activations_mib": "MiB, what is left of the peak: activations, work space and what the allocator holds",
    "build_peak_memory_mib": "MiB resident at most before the first repetition, or before the import",
    "peak_memory_mib": "MiB resident at most in the whole process",
}
"""Every figure that a record may hold, with its unit."""


class Stopwatch:
    """Splits the time since its making into named parts."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._since = time.perf_counter()

    def lap(self, part: str) -> None:
        """Add the time since the last lap (or the start) to ``part``."""
        now = time.perf_counter()
        self.seconds[part] = self.seconds.get(part, 0.0) + now - self._since
        self._since = now

    def join(self, parts: Iterable[str], name: str) -> None:
        """Make one part of several."""
        self.seconds[name] = sum(self.seconds.pop(part) for part in parts)


def repeat(run: Callable[[], Stopwatch], num_warmups: int, num_repetitions: int) -> dict[str, float]:
    """Median seconds of each part of ``run`` and of their sum, with the sum's extremes; warm-ups do not count."""
    for _ in range(num_warmups):
        run()
    runs = [run().seconds for _ in range(num_repetitions)]
    totals = [sum(seconds.values()) for seconds in runs]
    parts = {f"{part}_seconds": median(seconds[part] for seconds in runs) for part in runs[0]}
    extremes = {"fastest_seconds": min(totals), "slowest_seconds": max(totals)}
    return parts | {"total_seconds": median(totals)} | extremes


def peak_memory_mib() -> float:
    """The most memory this process has had resident so far."""
    if sys.platform == "linux":
        # Not getrusage: its maximum outlives exec, so a child would start from its parent's.
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        found = re.search(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)
        if found is None:
            raise RuntimeError("/proc/self/status has no VmHWM; peak memory cannot be measured here")
        return int(found.group(1)) / 1024
    import resource  # does not exist on every system

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1024**2 if sys.platform == "darwin" else peak / 1024


def available_memory_gib() -> float:
    """Memory that a new process could have without any other losing its own; infinite where no one tells."""
    if sys.platform != "linux":
        return math.inf
    facts = Path("/proc/meminfo").read_text(encoding="utf-8")
    found = re.search(r"^MemAvailable:\s+(\d+) kB$", facts, re.MULTILINE)
    return int(found.group(1)) / 1024**2 if found else math.inf


def pin_threads() -> None:
    """Make torch compute on one thread."""
    import torch  # not above: the imports themselves are measured too

    torch.set_num_threads(NUM_THREADS)
    torch.set_num_interop_threads(NUM_THREADS)


def run_case(module: str, case: AnyCase) -> dict[str, float]:
    """The figures of one case, measured by ``module`` in a process of its own.

    Raises:
        RuntimeError: the process failed; its last lines are in the message.
    """
    environment = os.environ | dict.fromkeys(_THREAD_VARIABLES, str(NUM_THREADS)) | {"TOKENIZERS_PARALLELISM": "false"}
    command = [sys.executable, "-m", module, json.dumps(asdict(case))]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{case} failed:\n" + "\n".join(done.stderr.splitlines()[-15:]))
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    if unknown := figures.keys() - UNITS.keys():
        raise RuntimeError(f"{module} gives figures without a unit: {', '.join(sorted(unknown))}")
    return figures


def read_case() -> dict[str, Any]:
    """The fields of the case that this process was started for by ``run_case``."""
    return json.loads(sys.argv[1])


def write_figures(figures: Mapping[str, float]) -> None:
    """Hand figures back to ``run_case``."""
    sys.stdout.write(json.dumps(dict(figures)) + "\n")


def machine_facts() -> dict[str, Any]:
    """What a figure depends on besides the code."""
    versions = {name: importlib.metadata.version(name) for name in ("torch", "transformers", "peft")}
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
        **versions,
        "dtype": DTYPE,
        "threads": NUM_THREADS,
        # What else ran: figures from a busy machine are not comparable.
        "load_average_at_start": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
    }


def _cpu_model() -> str:
    if sys.platform == "linux":
        facts = Path("/proc/cpuinfo").read_text(encoding="utf-8")
        if found := re.search(r"^model name\s*:\s*(.+)$", facts, re.MULTILINE):
            return found.group(1)
    return platform.processor() or platform.machine()
