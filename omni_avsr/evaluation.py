"""Score a checkpoint on all tasks and rates: clean, in noise and with swapped video, encoders once per clip."""

from __future__ import annotations

import logging
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import field
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from rich.progress import track
from torch import Tensor

from omni_avsr.checkpoint import checkpoint_sha256, load_checkpoint, read_info
from omni_avsr.config import STRICT, DType, Positive
from omni_avsr.data.config import DataConfig
from omni_avsr.data.dataset import FileReader, example_generator
from omni_avsr.data.noise import NoiseSource
from omni_avsr.decode import DecodeConfig, decode, settings_of
from omni_avsr.features import prepare_video, prepare_waveform
from omni_avsr.hypotheses import append_hypothesis, resume_hypotheses, write_hypotheses
from omni_avsr.metrics import MATCHED, compare, score
from omni_avsr.model import OmniAVSR
from omni_avsr.plots import plot_wer_against_snr, plot_wer_against_tokens
from omni_avsr.provenance import bind_results, command_line, commit, file_sha256, today
from omni_avsr.report import Report, write_report
from omni_avsr.types import Clip, Features, Hypothesis, Modality, Rates, Task

log = logging.getLogger(__name__)

SWAPPED = "swapped video"

Setting = tuple[Task, Rates, float | None, str]


@dataclass(frozen=True, config=STRICT)
class EvaluateConfig:
    """What to score and where to write it."""

    checkpoint: Path
    data: DataConfig
    output: Path
    tasks: tuple[Task, ...] = tuple(Task)
    snr_db: tuple[float, ...] = ()
    swap_video: bool = False
    decode: DecodeConfig = field(default_factory=DecodeConfig)
    batch_size: Positive = 8
    seed: Annotated[int, Field(ge=0)] = 7
    num_threads: Annotated[int, Field(ge=0)] = 0
    device: str = "cpu"
    llm_dtype: DType | None = "float32"

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
    noise = NoiseSource.read(config.data.test_noise) if config.data.test_noise else None
    tasks = [task for task in config.tasks if task in info.model.tasks]
    if not tasks:
        raise ValueError(f"this checkpoint is for {', '.join(info.model.tasks)}, not for {', '.join(config.tasks)}")
    bind_results(config.output, _origin(config))
    model = load_checkpoint(config.checkpoint, config.llm_dtype).to(config.device)
    scores, comparisons = {}, {}
    skipped: dict[str, str] = {}
    for name, clips in test_sets.items():
        levels = config.snr_db if config.data.test_sets[name].noisy else ()
        scorer = _Scorer(model, clips, config, tasks, noise, levels)
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


class _Scorer:
    """Decodes one test set, batch by batch, each encoder input once."""

    def __init__(
        self,
        model: OmniAVSR,
        clips: Sequence[Clip],
        config: EvaluateConfig,
        tasks: Sequence[Task],
        noise: NoiseSource | None,
        levels: Sequence[float],
    ) -> None:
        self.model, self.clips, self.config, self.noise, self.levels = model, clips, config, noise, levels
        self.reader = FileReader()
        self.needed = {modality for task in tasks for modality in task.modalities}
        self.failed: dict[str, str] = {}
        clean: list[Setting] = [(task, rates, None, MATCHED) for task, rates in settings_of(model, tasks)]
        heard = [(task, rates) for task, rates, _, _ in clean if Modality.AUDIO in task.modalities]
        noisy: list[Setting] = [(task, rates, level, MATCHED) for level in levels for task, rates in heard]
        swapped: list[Setting] = []
        if config.swap_video:
            conditions = [None, *levels]
            swapped = [(t, r, level, SWAPPED) for level in conditions for t, r in heard if t is Task.AVSR]
        self.settings = clean + noisy + swapped

    def run(self, path: Path, name: str) -> list[Hypothesis]:
        """Decode what ``path`` does not hold yet; at the end it holds all, in the order of clips and settings."""
        path.parent.mkdir(parents=True, exist_ok=True)
        known = {(h.id, h.task, h.rates, h.snr_db, h.condition): h for h in resume_hypotheses(path)}
        references = {clip.id: clip.text for clip in self.clips}
        for h in known.values():
            if h.reference != references.get(h.id):
                raise ValueError(f"{path} holds {h.id} as {h.reference!r}, the test set as {references.get(h.id)!r}")
        wanted = {clip.id: [s for s in self._settings(clip) if _key(clip, s) not in known] for clip in self.clips}
        todo = [index for index, clip in enumerate(self.clips) if wanted[clip.id]]
        if len(todo) < len(self.clips):
            log.info("%s: %d of %d clips are scored already", name, len(self.clips) - len(todo), len(self.clips))
        with path.open("ab") as file:
            for batch in track(list(self._batches(todo)), f"decoding {name}"):
                self._decode(batch, wanted, file, known)
        keys = [_key(clip, setting) for clip in self.clips for setting in self._settings(clip)]
        ordered = {key: known[key] for key in keys if key in known} | known
        write_hypotheses(path, ordered.values())
        return list(ordered.values())

    def _settings(self, clip: Clip) -> list[Setting]:
        return [s for s in self.settings if set(s[0].modalities) <= set(clip.modalities)]

    def _batches(self, indices: Sequence[int]) -> Iterator[list[int]]:
        """Clips of the same modalities and similar lengths together."""
        ranked = sorted(indices, key=lambda index: (self.clips[index].modalities, -self.clips[index].seconds))
        batch: list[int] = []
        for index in ranked:
            full = len(batch) == self.config.batch_size
            if batch and (full or self.clips[batch[0]].modalities != self.clips[index].modalities):
                yield batch
                batch = []
            batch.append(index)
        if batch:
            yield batch

    def _decode(
        self,
        indices: Sequence[int],
        wanted: Mapping[str, Sequence[Setting]],
        file: BinaryIO,
        known: dict[tuple[Any, ...], Hypothesis],
    ) -> None:
        read = {index: values for index in indices if (values := self._read(index)) is not None}
        if not read:
            return
        clips = [self.clips[index] for index in read]
        settings = [s for s in self._settings(clips[0]) if any(s in wanted[clip.id] for clip in clips)]
        audio, video = (list(values) for values in zip(*read.values(), strict=True))
        encoded = _Encoded(self, list(read), audio, video)
        for task, rates, level, condition in settings:
            features = encoded.features(task, level, condition)
            for hypothesis in decode(self.model, clips, features, task, rates, self.config.decode, level, condition):
                key = (hypothesis.id, hypothesis.task, hypothesis.rates, level, condition)
                if key not in known:
                    known[key] = hypothesis
                    append_hypothesis(file, hypothesis)
        file.flush()

    def _read(self, index: int) -> tuple[Tensor | None, Tensor | None] | None:
        clip = self.clips[index]
        try:
            waveform = self.reader.waveform(clip) if Modality.AUDIO in self.needed else None
            return waveform, self.reader.video(clip) if Modality.VIDEO in self.needed else None
        except (OSError, ValueError) as error:
            log.warning("left out %s: %s", clip.id, error)
            self.failed[clip.id] = str(error)
            return None

    def other_video(self, index: int, num_frames: int) -> Tensor:
        """Mouth crops of another clip with another text, cut or held to ``num_frames``."""
        clip = self.clips[index]
        for step in range(1, len(self.clips)):
            other = self.clips[(index + step) % len(self.clips)]
            if other.text == clip.text or other.video is None:
                continue
            try:
                video = self.reader.video(other)
            except (OSError, ValueError):
                continue  # it is left out when its own turn comes
            if video is not None:
                held = video[-1:].expand(max(0, num_frames - len(video)), -1, -1)
                return torch.cat([video, held])[:num_frames]
        raise ValueError(f"no other clip than {clip.id} has video of another text to swap in")


class _Encoded:
    """Encoder features of one batch; each input is encoded when it is first asked for, and once."""

    def __init__(
        self, scorer: _Scorer, indices: list[int], audio: list[Tensor | None], video: list[Tensor | None]
    ) -> None:
        self.scorer, self.indices, self.audio, self.video = scorer, indices, audio, video
        self.done: dict[tuple[Modality, float | None, str], Features] = {}

    def features(self, task: Task, level: float | None, condition: str) -> dict[Modality, Features]:
        found = {}
        for modality in task.modalities:
            audio = modality is Modality.AUDIO
            key = (modality, level if audio else None, MATCHED if audio else condition)
            if key not in self.done:
                rows = self._waveforms(level) if audio else self._videos(condition)
                inputs = {modality: Features.pad(rows).to(self.scorer.config.device)}
                self.done[key] = self.scorer.model.encode(inputs)[modality]
            found[modality] = self.done[key]
        return found

    def _waveforms(self, level: float | None) -> list[Tensor]:
        rows = []
        for index, waveform in zip(self.indices, self.audio, strict=True):
            assert waveform is not None
            if level is not None:
                assert self.scorer.noise is not None
                # By the clip's name, so that the noise does not depend on what else is in the test set.
                name = zlib.crc32(self.scorer.clips[index].id.encode())
                generator = example_generator(self.scorer.config.seed, 0, name)
                waveform = self.scorer.noise.mix(waveform, level, generator)
            rows.append(prepare_waveform(waveform, self.scorer.model.config.waveform))
        return rows

    def _videos(self, condition: str) -> list[Tensor]:
        rows = []
        for index, video in zip(self.indices, self.video, strict=True):
            assert video is not None
            rows.append(prepare_video(self.scorer.other_video(index, len(video)) if condition == SWAPPED else video))
        return rows


def _complete(hypotheses: Sequence[Hypothesis]) -> list[Hypothesis]:
    """Those of clips that were decoded in every setting, since paired differences need both sides of a clip."""
    found: dict[str, set[tuple[Any, ...]]] = {}
    for h in hypotheses:
        found.setdefault(h.id, set()).add((h.task, h.rates, h.snr_db, h.condition))
    every = set().union(*found.values())
    return [h for h in hypotheses if found[h.id] == every]


def _origin(config: EvaluateConfig) -> dict[str, str | None]:
    """What hypotheses depend on besides the clips."""
    noise = config.data.test_noise
    return {
        "checkpoint": checkpoint_sha256(config.checkpoint),
        "decoding": f"{config.decode.num_beams} beam(s), at most {config.decode.max_new_tokens} tokens",
        "llm_dtype": config.llm_dtype or "as trained",
        "noise": None if noise is None else f"{file_sha256(noise)} seed {config.seed}",
    }


def _key(clip: Clip, setting: Setting) -> tuple[Any, ...]:
    task, rates, level, condition = setting
    return (clip.id, task, rates.label(task), level, condition)


def _metadata(config: EvaluateConfig, domain: str, skipped: Mapping[str, str]) -> dict[str, Any]:
    return {
        "checkpoint": config.checkpoint.name,
        "training domain": domain,
        "decoding": f"{config.decode.num_beams} beam(s), at most {config.decode.max_new_tokens} tokens",
        "seed": config.seed,
        "commit": commit(),
        "date": today(),
        "command": command_line(),
        **({"left out": dict(skipped)} if skipped else {}),
    }
