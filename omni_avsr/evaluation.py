"""Score a checkpoint on all tasks and rates: clean, in noise and with swapped video, encoders once per clip."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass

from omni_avsr.checkpoint import changed_llm, checkpoint_sha256, load_checkpoint, on_device, read_info
from omni_avsr.config import STRICT, DType, ModelConfig, QuantizationChoice
from omni_avsr.data.config import DataConfig
from omni_avsr.data.noise import NoiseSource
from omni_avsr.data.noise_set import check_unheard
from omni_avsr.edge.budget import Profile
from omni_avsr.edge.check import check_transcribing
from omni_avsr.metrics import compare, score
from omni_avsr.plots import plot_wer_against_snr, plot_wer_against_tokens
from omni_avsr.provenance import bind_results, check_results, command_line, commit, today
from omni_avsr.report import Report, write_report
from omni_avsr.scorer import Scorer, ScoringConfig
from omni_avsr.stage_origin import clips_fingerprint
from omni_avsr.types import Clip, Hypothesis, Task

log = logging.getLogger(__name__)


@dataclass(frozen=True, config=STRICT, kw_only=True)
class EvaluateConfig(ScoringConfig):
    """What to score, how, and where to write it."""

    checkpoint: Path
    data: DataConfig
    output: Path
    tasks: tuple[Task, ...] = tuple(Task)
    snr_db: tuple[float, ...] = ()
    num_threads: Annotated[int, Field(ge=0)] = 0
    device: str = "cpu"
    llm_dtype: DType | None = "float32"
    quantization: QuantizationChoice | None = None
    profile: Profile | None = None

    def __post_init__(self) -> None:
        if self.snr_db and self.data.test_noise is None:
            raise ValueError("snr_db names noise levels, but no noise file is given (data.test_noise=...)")
        if not self.data.test_sets:
            raise ValueError("there is nothing to score: data.test_sets is empty")


def evaluate(config: EvaluateConfig) -> Report:
    """Score every test set and write hypotheses, table and plots into ``config.output``.

    What an interrupted evaluation has written is kept: a clip and setting that stand in the hypotheses are not decoded
    again. A clip that cannot be read is left out of the scores, with its reason in the log and the table.
    """
    if config.num_threads:
        torch.set_num_threads(config.num_threads)
    info = read_info(config.checkpoint)
    domain = str(info.training.get("domain", "not stated"))
    log.info("training domain of this checkpoint: %s", domain)
    test_sets = {name: config.data.read_test_set(name) for name in config.data.test_sets}
    noisy = [name for name, test_set in config.data.test_sets.items() if test_set.noisy and config.snr_db]
    noise = {name: config.data.read_test_noise(name) for name in noisy}
    for source in () if config.data.shared_noise else noise.values():
        check_unheard(source.recordings, info.training.get("noise", ()))
    tasks = [task for task in config.tasks if task in info.model.tasks]
    if not tasks:
        raise ValueError(f"this checkpoint is for {', '.join(info.model.tasks)}, not for {', '.join(config.tasks)}")
    origin = _origin(config, test_sets, noise)
    check_results(config.output, origin)
    if config.profile is not None:
        _check_memory(config, info.model, tasks, [clip for clips in test_sets.values() for clip in clips])
    model = on_device(load_checkpoint(config.checkpoint, config.llm_dtype, config.quantization), config.device)
    bind_results(config.output, origin)
    scores, comparisons = {}, {}
    skipped: dict[str, str] = {}
    for name, clips in test_sets.items():
        scorer = Scorer(model, clips, tasks, config, noise.get(name), config.snr_db if name in noise else ())
        hypotheses = scorer.run(config.output / f"hypotheses-{name}.jsonl", name)
        skipped |= {f"{name}/{clip}": reason for clip, reason in scorer.failed.items()}
        if not hypotheses:
            reason = next(iter(scorer.failed.values()), f"none has the inputs of {', '.join(tasks)}")
            raise ValueError(f"test set {name}: none of its {len(clips)} clips could be scored: {reason}")
        scores[name] = score(hypotheses, seed=config.seed)
        comparisons[name] = compare(_complete(hypotheses), seed=config.seed)
    report = Report(scores, comparisons, _metadata(config, domain, skipped))
    write_report(config.output, report)
    for name, block in scores.items():
        plot_wer_against_tokens(config.output / f"wer-tokens-{name}.png", block, model.frame_rates, title=name)
        if any(s.setting.snr_db is not None for s in block):
            plot_wer_against_snr(config.output / f"wer-snr-{name}.png", block, title=name)
    return report


def _check_memory(config: EvaluateConfig, model: ModelConfig, tasks: Sequence[Task], clips: Sequence[Clip]) -> None:
    """Raise ValueError when the profile's memory cannot hold a batch of the longest clips."""
    assert config.profile is not None
    decode, longest = config.decode, max((clip.seconds for clip in clips), default=1.0)
    changed = changed_llm(model, config.llm_dtype, config.quantization)
    check_transcribing(
        config.profile, changed, tasks, longest, config.batch_size, decode.num_beams, decode.max_new_tokens
    )


def _complete(hypotheses: Sequence[Hypothesis]) -> list[Hypothesis]:
    """Those of clips that were decoded in every setting, since paired differences need both sides of a clip."""
    found: dict[str, set[tuple[Any, ...]]] = {}
    for h in hypotheses:
        found.setdefault(h.id, set()).add((h.task, h.rates, h.snr_db, h.condition))
    every = set().union(*found.values())
    return [h for h in hypotheses if found[h.id] == every]


def _origin(
    config: EvaluateConfig, test_sets: Mapping[str, Sequence[Clip]], noise: Mapping[str, NoiseSource]
) -> dict[str, str | None]:
    """What hypotheses depend on."""
    return {
        **{f"test set {name}": clips_fingerprint(clips) for name, clips in test_sets.items()},
        "checkpoint": checkpoint_sha256(config.checkpoint),
        "decoding": str(config.decode),
        "llm_dtype": config.llm_dtype or "as trained",
        "quantization": config.quantization or "as trained",
        **{
            _noise_name(config, name): f"{n.fingerprint} seed {config.seed}{_zero_db(config)}"
            for name, n in noise.items()
        },
    }


def _zero_db(config: EvaluateConfig) -> str:
    return "" if config.zero_db == "exact" else ", 0 dB as published (a level drawn for each clip)"


def _noise_name(config: EvaluateConfig, test_set: str) -> str:
    """What an error message calls the noise of a test set; sets of one split share theirs."""
    split = config.data.test_sets[test_set].noise_split
    return "noise" if split == "test" else f"{split} noise"


def _metadata(config: EvaluateConfig, domain: str, skipped: Mapping[str, str]) -> dict[str, Any]:
    return {
        "checkpoint": config.checkpoint.name,
        "training domain": domain,
        "decoding": str(config.decode),
        **({"llm_dtype": config.llm_dtype} if config.llm_dtype else {}),
        **({"quantization": config.quantization} if config.quantization else {}),
        "seed": config.seed,
        **({"SNR measured over": f"the {config.data.snr_over}{_zero_db(config)}"} if config.snr_db else {}),
        "commit": commit(),
        "date": today(),
        "command": command_line(),
        **({"left out": dict(skipped)} if skipped else {}),
    }
