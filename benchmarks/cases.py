"""What is measured, as plain data. Free of torch, so that the process which starts the cases stays light."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

Size = Literal["smollm2_135m", "llama_1b", "tiny"]

AUDIO_RATES, VIDEO_RATES = (4, 16), (2, 5)
NUM_NEW_TOKENS = 8
CLIP_SECONDS = 3.0
REAL_SIZE_GIB = 8.0
"""What the case of real size needs, with a margin for what else runs."""
MIXED_SECONDS = (1.0, 1.5, 2.0, 2.5, 3.5, 4.0, 4.5, 5.0)
"""Eight clips of 3 s on average: what padding costs when a batch is not sorted by length."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """What every case has: how large the models are, how often it is run, and the seed of weights and inputs."""

    size: Size
    num_warmups: int
    num_repetitions: int
    seed: int


@dataclass(frozen=True, kw_only=True)
class TrainingCase(Case):
    """One optimizer step of the three tasks on one batch."""

    clip_seconds: Sequence[float]
    audio_rate: int
    video_rate: int
    gradient_checkpointing: bool

    @property
    def label(self) -> str:
        shortest, longest = min(self.clip_seconds), max(self.clip_seconds)
        length = f"{longest:g} s" if shortest == longest else f"{shortest:g}-{longest:g} s"
        return f"{len(self.clip_seconds)} x {length}" + ", checkpointing" * self.gradient_checkpointing


@dataclass(frozen=True, kw_only=True)
class PublishedCase(Case):
    """Forward and backward of the three tasks with the parts, and the trained ones, of the published recipe in small:
    SmolLM2-135M, Whisper tiny, AV-HuBERT Base; one LoRA for all tasks, and LoRA in AV-HuBERT."""

    clip_seconds: Sequence[float]
    audio_rate: int
    video_rate: int

    @property
    def label(self) -> str:
        return f"{len(self.clip_seconds)} x {max(self.clip_seconds):g} s"


@dataclass(frozen=True, kw_only=True)
class RealSizeCase(Case):
    """The published recipe at its size (Llama-3.2-1B, Whisper medium.en, AV-HuBERT Large, hybrid LoRA), all that is
    frozen in bfloat16: one optimizer step, and one clip transcribed.

    needed_gib: free memory without which the case is left out.
    """

    clip_seconds: Sequence[float]
    audio_rate: int
    video_rate: int
    num_new_tokens: int
    needed_gib: float

    @property
    def label(self) -> str:
        return f"{len(self.clip_seconds)} x {max(self.clip_seconds):g} s"


@dataclass(frozen=True, kw_only=True)
class DecodingCase(Case):
    """One batch from waveforms and crops to texts, for one task at its rates. ``video_rate`` means nothing to ASR,
    ``audio_rate`` nothing to VSR."""

    task: Literal["asr", "vsr", "avsr"]
    audio_rate: int
    video_rate: int
    num_beams: int
    clip_seconds: Sequence[float]
    num_new_tokens: int

    @property
    def rates(self) -> str:
        """The rates that matter to the task, as in ``4``, ``2`` or ``4,2``."""
        return {
            "asr": f"{self.audio_rate}",
            "vsr": f"{self.video_rate}",
            "avsr": f"{self.audio_rate},{self.video_rate}",
        }[self.task]

    @property
    def label(self) -> str:
        return f"{self.task.upper()} {self.rates}, beams {self.num_beams}, batch {len(self.clip_seconds)}"


@dataclass(frozen=True, kw_only=True)
class ImportCase:
    """One import in a fresh interpreter; repeated in as many of them."""

    module: str
    num_warmups: int
    num_repetitions: int

    @property
    def label(self) -> str:
        return self.module


@dataclass(frozen=True, kw_only=True)
class PreparationCase:
    """Real clips through the preparation, by processes that share as many cores.

    folder: GRID's, from the checkout; see ``data_prep.corpora.grid``.
    num_warmups: clips until every worker has started, not counted.
    """

    folder: str
    finder: Literal["landmarker", "detector"]
    num_workers: int
    num_warmups: int
    num_clips: int

    @property
    def label(self) -> str:
        return f"{self.finder}, {self.num_workers} process{'es' * (self.num_workers > 1)}"


AnyCase = TrainingCase | PublishedCase | RealSizeCase | DecodingCase | ImportCase | PreparationCase


def training_cases(num_repetitions: int, seed: int) -> list[TrainingCase]:
    """Clips of one length, the same with gradient checkpointing, and clips of mixed lengths."""
    plain = TrainingCase(
        size="smollm2_135m",
        num_warmups=1,
        num_repetitions=num_repetitions,
        seed=seed,
        clip_seconds=[CLIP_SECONDS] * 8,
        audio_rate=AUDIO_RATES[0],
        video_rate=VIDEO_RATES[0],
        gradient_checkpointing=False,
    )
    return [plain, replace(plain, gradient_checkpointing=True), replace(plain, clip_seconds=list(MIXED_SECONDS))]


def published_cases(num_repetitions: int, seed: int) -> list[PublishedCase]:
    """The step that the published code was timed with."""
    return [
        PublishedCase(
            size="smollm2_135m",
            num_warmups=1,
            num_repetitions=num_repetitions,
            seed=seed,
            clip_seconds=[CLIP_SECONDS] * 8,
            audio_rate=AUDIO_RATES[0],
            video_rate=VIDEO_RATES[0],
        )
    ]


def real_size_cases(seed: int) -> list[RealSizeCase]:
    """One step from the start: nothing is warm in a first one, and memory is what is asked."""
    return [
        RealSizeCase(
            size="llama_1b",
            num_warmups=0,
            num_repetitions=1,
            seed=seed,
            clip_seconds=[CLIP_SECONDS],
            audio_rate=AUDIO_RATES[0],
            video_rate=VIDEO_RATES[0],
            num_new_tokens=NUM_NEW_TOKENS,
            needed_gib=REAL_SIZE_GIB,
        )
    ]


def decoding_cases(num_repetitions: int, seed: int) -> list[DecodingCase]:
    """The eight columns of tasks and rates, each greedily and by four beams, for one clip and for eight at once."""
    columns: list[tuple[Literal["asr", "vsr", "avsr"], int, int]] = [
        *(("asr", audio, VIDEO_RATES[0]) for audio in AUDIO_RATES),
        *(("vsr", AUDIO_RATES[0], video) for video in VIDEO_RATES),
        *(("avsr", audio, video) for audio in AUDIO_RATES for video in VIDEO_RATES),
    ]
    return [
        DecodingCase(
            size="smollm2_135m",
            num_warmups=1,
            num_repetitions=num_repetitions,
            seed=seed,
            task=task,
            audio_rate=audio_rate,
            video_rate=video_rate,
            num_beams=num_beams,
            clip_seconds=[CLIP_SECONDS] * batch_size,
            num_new_tokens=NUM_NEW_TOKENS,
        )
        for num_beams in (1, 4)
        for batch_size in (1, 8)
        for task, audio_rate, video_rate in columns
    ]


def import_cases(num_repetitions: int) -> list[ImportCase]:
    """The front door, what transcribing imports, and, to compare, the libraries that it cannot do without."""
    return [
        ImportCase(module=module, num_warmups=1, num_repetitions=num_repetitions)
        for module in (
            "omni_avsr",
            "torch",
            "transformers",
            "transformers.models.llama.modeling_llama",
            "peft",
            "omni_avsr.transcribe",
        )
    ]


def preparation_cases(folder: str, num_clips: int) -> list[PreparationCase]:
    """Both ways to find a face, on one core and on two."""
    finders: tuple[Literal["landmarker", "detector"], ...] = ("landmarker", "detector")
    return [
        PreparationCase(
            folder=folder, finder=finder, num_workers=workers, num_warmups=2 * workers, num_clips=num_clips * workers
        )
        for finder in finders
        for workers in (1, 2)
    ]


def quick_cases(seed: int) -> list[AnyCase]:
    """Every benchmark at tiny shapes, once: shows that it runs, and says nothing of speed."""
    checkpointed = next(case for case in training_cases(1, seed) if case.gradient_checkpointing)
    decoding = decoding_cases(1, seed)
    real_size = [replace(case, needed_gib=1.0) for case in real_size_cases(seed)]
    # Of decoding the two ends: one clip of ASR greedily, eight of AVSR by beams.
    heavy: list[TrainingCase | PublishedCase | RealSizeCase | DecodingCase]
    heavy = [checkpointed, *published_cases(1, seed), *real_size, decoding[0], decoding[-1]]
    return [
        *(replace(case, size="tiny", num_warmups=0) for case in heavy),
        *(replace(case, num_warmups=0) for case in import_cases(1)),
    ]


def all_cases(num_repetitions: int, seed: int) -> list[AnyCase]:
    """All that a report holds."""
    return [
        *training_cases(num_repetitions, seed),
        *published_cases(num_repetitions, seed),
        *real_size_cases(seed),
        *decoding_cases(num_repetitions, seed),
        *import_cases(num_repetitions),
    ]
