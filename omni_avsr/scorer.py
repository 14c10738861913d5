"""Decode a test set in every setting: tasks, rates, noise levels, swapped or shuffled inputs; each input once."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import field
from pathlib import Path
from typing import Annotated, Any, BinaryIO

from pydantic import Field
from pydantic.dataclasses import dataclass
from rich.progress import track
from torch import Tensor

from omni_avsr.conditions import SHUFFLED, SWAPPED, ConditionInputs, ZeroDb
from omni_avsr.config import STRICT, Positive
from omni_avsr.data.dataset import FileReader
from omni_avsr.data.noise import NoiseSource
from omni_avsr.decode import DecodeConfig, decode, settings_of
from omni_avsr.drafts import drafting_modalities
from omni_avsr.features import prepare_video, prepare_waveform
from omni_avsr.hypotheses import append_hypothesis, resume_hypotheses, write_hypotheses
from omni_avsr.model import OmniAVSR
from omni_avsr.types import MATCHED, Clip, Features, Hypothesis, Modality, Rates, Task

log = logging.getLogger(__name__)

Setting = tuple[Task, Rates, float | None, str]


@dataclass(frozen=True, config=STRICT)
class ScoringConfig:
    """How test clips are decoded.

    seed: places the noise. swap_video: adds AVSR with another clip's video. shuffle_inputs: adds all tasks with all of
    another clip's inputs, of equal length where there is one, which tells how much a model guesses. zero_db: what 0 dB
    means.
    """

    swap_video: bool = False
    shuffle_inputs: bool = False
    zero_db: ZeroDb = "exact"
    decode: DecodeConfig = field(default_factory=DecodeConfig)
    batch_size: Positive = 8
    seed: Annotated[int, Field(ge=0)] = 7


class Scorer:
    """Decodes one test set, batch by batch, each encoder input once."""

    def __init__(
        self,
        model: OmniAVSR,
        clips: Sequence[Clip],
        tasks: Sequence[Task],
        config: ScoringConfig,
        noise: NoiseSource | None,
        levels: Sequence[float],
    ) -> None:
        """levels: SNRs in dB that are scored beside clean speech, with pieces of ``noise``.

        Raises:
            ValueError: video is to be swapped, but all clips that have any say the same; or a task is to be drafted
                whose encoders carry no CTC head.
        """
        if config.decode.draft is not None:
            for task in tasks:
                drafting_modalities(model, task)
        self.model, self.clips, self.config = model, clips, config
        self.reader = FileReader()
        self.inputs = ConditionInputs(clips, self.reader, noise, config.seed, config.zero_db)
        self.needed = {modality for task in tasks for modality in task.modalities}
        self.failed: dict[str, str] = {}
        clean: list[Setting] = [(task, rates, None, MATCHED) for task, rates in settings_of(model, tasks)]
        heard = [(task, rates) for task, rates, _, _ in clean if Modality.AUDIO in task.modalities]
        noisy: list[Setting] = [(task, rates, level, MATCHED) for level in levels for task, rates in heard]
        swapped: list[Setting] = []
        if config.swap_video and any(task is Task.AVSR for task, _ in heard):
            _check_texts("swap_video", [clip for clip in clips if clip.video is not None])
            conditions = [None, *levels]
            swapped = [(t, r, level, SWAPPED) for level in conditions for t, r in heard if t is Task.AVSR]
        shuffled: list[Setting] = []
        if config.shuffle_inputs:
            _check_texts("shuffle_inputs", clips)
            shuffled = [(task, rates, None, SHUFFLED) for task, rates, _, _ in clean]
        self.settings = clean + noisy + swapped + shuffled

    def run(self, path: Path, name: str) -> list[Hypothesis]:
        """Decode what ``path`` does not hold yet; at the end it holds all, in the order of clips and settings."""
        path.parent.mkdir(parents=True, exist_ok=True)
        known = {(h.id, h.task, h.rates, h.snr_db, h.condition): h for h in resume_hypotheses(path)}
        wanted = {clip.id: [s for s in self._settings(clip) if _key(clip, s) not in known] for clip in self.clips}
        todo = [index for index, clip in enumerate(self.clips) if wanted[clip.id]]
        if len(todo) < len(self.clips):
            log.info("%s: %d of %d clips are scored already", name, len(self.clips) - len(todo), len(self.clips))
        with path.open("ab") as file:
            for batch in track(list(self._batches(todo)), f"decoding {name}"):
                self._decode_or_split(batch, wanted, file, known)
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

    def _decode_or_split(
        self,
        indices: Sequence[int],
        wanted: Mapping[str, Sequence[Setting]],
        file: BinaryIO,
        known: dict[tuple[Any, ...], Hypothesis],
    ) -> None:
        """Decode a batch; where a clip breaks it (too long for an encoder, say), decode one by one and leave it out."""
        try:
            self._decode(indices, wanted, file, known)
        except ValueError as error:
            if len(indices) == 1:
                self._leave_out(self.clips[indices[0]], error)
                return
            for index in indices:
                self._decode_or_split([index], wanted, file, known)

    def _leave_out(self, clip: Clip, error: Exception) -> None:
        log.warning("left out %s: %s", clip.id, error)
        self.failed[clip.id] = str(error)

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
        encoded = EncodedBatch(self, list(read), audio, video)
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
            self._leave_out(clip, error)
            return None


class EncodedBatch:
    """Encoder features of one batch; each input is encoded when it is first asked for, and once."""

    def __init__(
        self, scorer: Scorer, indices: list[int], audio: list[Tensor | None], video: list[Tensor | None]
    ) -> None:
        self.scorer, self.indices, self.audio, self.video = scorer, indices, audio, video
        self.done: dict[tuple[Modality, float | None, str], Features] = {}

    def features(self, task: Task, level: float | None, condition: str) -> dict[Modality, Features]:
        found = {}
        for modality in task.modalities:
            audio = modality is Modality.AUDIO
            own = audio and condition == SWAPPED  # swapping leaves the sound alone
            key = (modality, level if audio else None, MATCHED if own else condition)
            if key not in self.done:
                rows = self._waveforms(level, condition) if audio else self._videos(condition)
                inputs = {modality: Features.pad(rows).to(self.scorer.model.device)}
                self.done[key] = self.scorer.model.encode(inputs)[modality]
            found[modality] = self.done[key]
        return found

    def _waveforms(self, level: float | None, condition: str) -> list[Tensor]:
        rows = []
        for index, waveform in zip(self.indices, self.audio, strict=True):
            assert waveform is not None
            heard = self.scorer.inputs.waveform(index, waveform, level, condition)
            rows.append(prepare_waveform(heard, self.scorer.model.config.waveform))
        return rows

    def _videos(self, condition: str) -> list[Tensor]:
        rows = []
        for index, video in zip(self.indices, self.video, strict=True):
            assert video is not None
            rows.append(prepare_video(self.scorer.inputs.video(index, video, condition)))
        return rows


def _check_texts(setting: str, clips: Sequence[Clip]) -> None:
    if len({clip.text for clip in clips}) == 1:
        raise ValueError(f"{setting} needs clips of different texts; in this test set all texts are the same")


def _key(clip: Clip, setting: Setting) -> tuple[Any, ...]:
    task, rates, level, condition = setting
    return (clip.id, task, rates.label(task), level, condition)
