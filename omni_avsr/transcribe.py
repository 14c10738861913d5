"""Transcribe media files of any length with a checkpoint; needs neither Lightning nor Hydra."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from omni_avsr.checkpoint import load_checkpoint, on_device, read_info, save_checkpoint
from omni_avsr.compression import all_rates
from omni_avsr.config import DraftConfig, DType, QuantizationChoice, check_draft
from omni_avsr.drafts import drafting_modalities
from omni_avsr.edge.elastic import Controller, ElasticOptions
from omni_avsr.encoders.access import max_seconds
from omni_avsr.hub import checkpoint_folder, push_to_hub
from omni_avsr.model import OmniAVSR
from omni_avsr.pieces import Piece, Said, cut_recording, say
from omni_avsr.recording import Recording, TaskChoice, Tell, VideoOptions, read_recording, tell_nobody
from omni_avsr.transcript import Transcript
from omni_avsr.types import Rates, Task
from omni_avsr.windows import join_words

DEFAULT_SECONDS = 15.0
"""Longest piece of a recording for a checkpoint that does not tell how long its training clips were."""
STORED_DTYPES = {name: getattr(torch, name) for name in ("float32", "float16", "bfloat16")}
TOLERANCE = 1.2
"""How much longer than the longest training clip a piece may be."""
FILE_ERRORS = (ValueError, OSError, RuntimeError)
"""What a file may cause: it cannot be read, MediaPipe or torch cannot use it, memory is too small for it."""
SHORTEST_WINDOW = 0.5
"""Seconds that a piece has to have room for."""


@dataclass(frozen=True)
class TranscribeOptions:
    """How files are transcribed.

    task: "auto" takes all that a file has. rates: the lowest trained ones by default, which are the most accurate.
    elastic: fits each file's rates, and under "auto" its task, to limits of memory and time; one file at a time.
    draft: greedy search in fewer passes of the LLM, which corrects what the encoders' CTC heads wrote.
    window: longest piece that is transcribed at once, in seconds; by default what the model was trained on. batch_size:
    pieces at a time, of one file or of several.
    """

    task: TaskChoice = "auto"
    rates: Rates | None = None
    num_beams: int = 1
    max_new_tokens: int = 64
    draft: DraftConfig | None = None
    elastic: ElasticOptions | None = None
    window: float | None = None
    batch_size: int = 8
    video: VideoOptions = field(default_factory=VideoOptions)

    def __post_init__(self) -> None:
        check_draft(self.draft, self.num_beams)
        if self.elastic is not None and (self.rates is not None or self.batch_size > 1):
            raise ValueError("elastic chooses the rates itself, and fits one file at a time: leave rates, batch_size 1")
        if self.window is not None and not SHORTEST_WINDOW <= self.window < math.inf:
            raise ValueError(f"window must be at least {SHORTEST_WINDOW} s and finite, got {self.window:g}")


@dataclass(frozen=True)
class Failure:
    """A file that could not be transcribed, and why."""

    file: str
    reason: str


@dataclass(frozen=True)
class _Read:
    """A file in memory, in pieces, and the rates that it is transcribed at."""

    recording: Recording
    pieces: Sequence[Piece]
    rates: Rates


@dataclass(frozen=True)
class Transcriber:
    """A loaded checkpoint.

    training: what it says of its training, the domain it knows among others.
    face_model: MediaPipe's face_landmarker.task for raw video; None finds it as ``mouth.face_model`` says.
    trained_base: names of base models' tensors that were trained.
    """

    model: OmniAVSR
    training: Mapping[str, Any]
    face_model: Path | None = None
    trained_base: tuple[str, ...] = ()
    _controllers: list[tuple[tuple[ElasticOptions, int, int], Controller]] = field(
        default_factory=list, init=False, repr=False, compare=False
    )
    """The last one and what it is for: describing the model takes longer than an utterance."""

    @classmethod
    def from_pretrained(cls, reference: str | Path, **settings: Any) -> Transcriber:
        """``load`` by the name that Hugging Face's libraries use."""
        return load(reference, **settings)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write a checkpoint folder: config, trained tensors, adapters that peft alone can load, and a model card."""
        state = self.model.state_dict()
        dtype = STORED_DTYPES.get(str(self.training.get("stored as")))
        trained = {name: state[name] for name in self.trained_base}
        save_checkpoint(Path(folder), self.model, trained, self.training, dtype)

    def push_to_hub(self, repo_id: str, private: bool = True) -> str:
        """Upload to the Hugging Face Hub; returns the commit's address. ValueError when that fails."""
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(Path(folder) / "checkpoint")
            return push_to_hub(Path(folder) / "checkpoint", repo_id, private)

    @property
    def default_rates(self) -> Rates:
        """The lowest trained rates: most tokens, best quality."""
        return min(all_rates(self.model.config.compression))

    def transcribe(
        self,
        path: str | Path,
        task: TaskChoice | str = Task.AVSR,
        rates: Rates | Sequence[int] | None = None,
        num_beams: int = 1,
        max_new_tokens: int = 64,
        draft: DraftConfig | None = None,
    ) -> str:
        """Transcribe one file.

        Args:
            path: any audio or video file, of any length. A video of 96 x 96 pixels is taken as mouth crops, in any
                other the face is found first.
            task: asr, vsr, avsr, or auto for what the file has.
            rates: (audio, video) compression; the lowest trained ones by default.
            draft: as in ``TranscribeOptions``.

        Raises:
            ValueError: the file cannot be read or lacks what the task needs, or the model was not trained for the task
                or the rate, or has no CTC head to draft.
        """
        options = TranscribeOptions(
            task="auto" if task == "auto" else Task(task),
            rates=None if rates is None else rates if isinstance(rates, Rates) else Rates(*rates),
            num_beams=num_beams,
            max_new_tokens=max_new_tokens,
            draft=draft,
        )
        [result] = self.run([path], options)
        if isinstance(result, Failure):
            raise ValueError(result.reason)
        return result.text

    def run(
        self, paths: Iterable[str | Path], options: TranscribeOptions, tell: Tell = tell_nobody
    ) -> Iterator[Transcript | Failure]:
        """Transcribe files in their order, in batches across files; a file that fails costs only itself.

        Raises:
            ValueError: the model was not trained for the rates or the task, or has no CTC head to draft it; before any
                file is read.
        """
        rates = options.rates or self.default_rates
        trained = self.model.config.tasks
        for task in trained if options.task == "auto" else (options.task,):
            if task not in trained:
                raise ValueError(f"this model is for {', '.join(trained)}, not for {task}")
            self.model.config.compression.check(rates, task)
            if options.draft is not None and task == options.task:
                drafting_modalities(self.model, task)
        controller = self._controller(options)
        waiting: list[_Read | Failure] = []
        paths = list(paths)
        for number, path in enumerate(paths):
            waiting.append(self._read(Path(path), options, controller, tell))
            tell("reading files", number + 1, len(paths))
            if sum(len(entry.pieces) for entry in waiting if isinstance(entry, _Read)) >= options.batch_size:
                yield from self._finish(waiting, options, tell)
                waiting = []
        yield from self._finish(waiting, options, tell)

    def of_recording(self, recording: Recording, options: TranscribeOptions, tell: Tell = tell_nobody) -> Transcript:
        """Transcribe what was read before, such as at several rates.

        Raises:
            ValueError: the model was not trained for the rates, or cannot cut the recording into pieces.
        """
        self.model.config.compression.check(options.rates or self.default_rates, recording.task)
        entry = self._in_pieces(recording, options, self._controller(options), tell)
        [result] = self._finish([entry], options, tell)
        if isinstance(result, Failure):
            raise ValueError(result.reason)
        return result

    def _controller(self, options: TranscribeOptions) -> Controller | None:
        if options.elastic is None:
            return None
        asked = (options.elastic, options.num_beams, options.max_new_tokens)
        if not self._controllers or self._controllers[0][0] != asked:
            self._controllers[:] = [(asked, Controller(self.model.config, *asked))]
        return self._controllers[0][1]

    def _read(
        self, path: Path, options: TranscribeOptions, controller: Controller | None, tell: Tell
    ) -> _Read | Failure:
        video = replace(options.video, face_model=options.video.face_model or self.face_model)
        try:
            recording = read_recording(path, options.task, self.model.config.tasks, video, tell)
            return self._in_pieces(recording, options, controller, tell)
        except FILE_ERRORS as error:
            return _failure(path, error)

    def _in_pieces(
        self, recording: Recording, options: TranscribeOptions, controller: Controller | None, tell: Tell
    ) -> _Read:
        rates = options.rates or self.default_rates
        if controller is not None:
            longest = min(recording.seconds, self._longest(recording, options))
            recording, choice = controller.fit(recording, options.task == "auto", longest)
            rates = choice.rates
        return _Read(recording, cut_recording(self.model, recording, self._longest(recording, options), tell), rates)

    def _longest(self, recording: Recording, options: TranscribeOptions) -> float:
        """Seconds that may be transcribed at once."""
        trained = float(self.training.get("longest_clip_seconds", DEFAULT_SECONDS))
        limits = [max_seconds(self.model, modality) for modality in recording.task.modalities]
        return min([TOLERANCE * trained if options.window is None else options.window, *limits])

    def _finish(
        self, entries: Sequence[_Read | Failure], options: TranscribeOptions, tell: Tell
    ) -> Iterator[Transcript | Failure]:
        """The results of files that were read, in their order."""
        said = self._say([entry for entry in entries if isinstance(entry, _Read)], options, tell)
        for entry in entries:
            if isinstance(entry, Failure):
                yield entry
                continue
            parts = [said[id(piece)] for piece in entry.pieces]
            if failed := [part for part in parts if isinstance(part, Failure)]:
                yield failed[0]
            else:
                whole = [part for part in parts if isinstance(part, Said)]
                yield _joined(entry, whole)

    def _say(self, entries: Sequence[_Read], options: TranscribeOptions, tell: Tell) -> dict[int, Said | Failure]:
        """What is said in each piece, by its identity; batches hold pieces of one setting and of similar lengths."""
        said: dict[int, Said | Failure] = {}
        groups: dict[tuple[Task, Rates], list[Piece]] = {}
        for entry in entries:
            groups.setdefault((entry.recording.task, entry.rates), []).extend(entry.pieces)
        num_pieces = sum(len(pieces) for pieces in groups.values())
        for (_, rates), pieces in groups.items():
            chosen = sorted(pieces, key=lambda piece: piece.seconds)
            for first in range(0, len(chosen), options.batch_size):
                batch = chosen[first : first + options.batch_size]
                parts = self._say_batch(batch, rates, options)
                said |= {id(piece): part for piece, part in zip(batch, parts, strict=True)}
                tell("transcribing", len(said), num_pieces)
        return said

    def _say_batch(self, batch: Sequence[Piece], rates: Rates, options: TranscribeOptions) -> Sequence[Said | Failure]:
        """A batch that fails (a piece too short for an encoder, too little memory) is tried piece by piece."""
        try:
            return say(self.model, batch, rates, options.num_beams, options.max_new_tokens, options.draft)
        except FILE_ERRORS as error:
            if len(batch) == 1:
                return [_failure(batch[0].recording.path, error)]
        return [part for piece in batch for part in self._say_batch([piece], rates, options)]


def _failure(path: Path, error: Exception) -> Failure:
    """The reason of a failure, which names the file."""
    reason = str(error)
    return Failure(str(path), reason if str(path) in reason else f"{path}: {reason}")


def _joined(entry: _Read, parts: Sequence[Said]) -> Transcript:
    recording, pieces = entry.recording, entry.pieces
    words = join_words([(piece.window, part.words) for piece, part in zip(pieces, parts, strict=True)])
    # Without a CTC head there are no words, and no piece overlaps another.
    texts = [word.text for word in words] if words else [part.text for part in parts if part.text]
    return Transcript(
        file=str(recording.path),
        task=recording.task,
        rates=entry.rates,
        text=" ".join(texts),
        words=tuple(words),
        seconds=recording.seconds,
        num_tokens={m: sum(part.num_tokens[m] for part in parts) for m in recording.task.modalities},
        notes=recording.notes,
    )


def load(
    folder: str | Path,
    device: str = "cpu",
    llm_dtype: DType | None = None,
    face_model: Path | None = None,
    revision: str | None = None,
    quantization: QuantizationChoice | None = None,
    merged_task: Task | str | None = None,
    encoders: Path | None = None,
    user: Path | None = None,
) -> Transcriber:
    """Load a checkpoint for inference, from a folder or by its id on the Hugging Face Hub.

    Args:
        face_model: MediaPipe's face_landmarker.task for raw video.
        revision: branch, tag or commit on the Hub.
        quantization: the LLM's weights as "int8" or "nf4" (extra ``runtime``), "none" for floats; None as trained.
        merged_task: the one task to load for, with its adapters added to the LLM's weights.
        encoders: what ``omni-avsr export-onnx`` made of this checkpoint; onnxruntime then runs the encoders, on the CPU
            whatever the device, and torch's are not loaded.
        user: the folder of a person whom ``omni-avsr personalize`` enrolled for this checkpoint.

    Raises:
        ValueError: the folder is no checkpoint, its base models are missing or others than it was trained on, the
            exported encoders are another checkpoint's, there is no such device, or a library is missing.
    """
    path = checkpoint_folder(folder, revision)
    task = None if merged_task is None else Task(merged_task)
    model, info = load_checkpoint(path, llm_dtype, quantization, task, encoders, user), read_info(path)
    return Transcriber(on_device(model, device), info.training, face_model, info.trained_base)
