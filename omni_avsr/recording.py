"""A raw media file as what a model reads: its waveform, its mouth crops, and which task they allow."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from omni_avsr.features import MOUTH_SIZE, SAMPLE_RATE, VIDEO_FPS
from omni_avsr.media import MediaError, iter_video, probe, read_audio, read_video
from omni_avsr.types import Modality, Task

TaskChoice = Task | Literal["auto"]
Tell = Callable[[str, int, int], None]
"""Is told of long work: what is done, how far it is, and how much there is."""

UNEVEN = 0.5
"""Seconds by which sound and pictures of one file may end apart without a note."""


@dataclass(frozen=True)
class VideoOptions:
    """How mouths are found. cropped: the video shows mouth crops; None takes it for crops when it is 96 x 96.

    face: which of several faces, 0 is the largest that stays; None is the detector's first. face_model: MediaPipe's
    face_landmarker.task; None finds it as ``mouth.face_model`` says.
    """

    cropped: bool | None = None
    face: int | None = None
    face_model: Path | None = None


@dataclass(frozen=True)
class Recording:
    """A file in memory.

    task: what it will be transcribed by. waveform: [samples] float32 at 16 kHz. crops: [T, 96, 96] uint8 at 25 fps.
    What the task does not read is None. notes: why it is another task, or less, than one might expect.
    """

    path: Path
    task: Task
    waveform: np.ndarray | None
    crops: np.ndarray | None
    notes: tuple[str, ...] = ()

    @property
    def seconds(self) -> float:
        """Of the shorter of the streams that the task reads."""
        lengths = []
        if self.waveform is not None:
            lengths.append(len(self.waveform) / SAMPLE_RATE)
        if self.crops is not None:
            lengths.append(len(self.crops) / VIDEO_FPS)
        return min(lengths)


def tell_nobody(what: str, done: int, total: int) -> None:
    pass


def read_recording(
    path: Path, task: TaskChoice, tasks: Collection[Task], options: VideoOptions, tell: Tell = tell_nobody
) -> Recording:
    """Read what a task needs of a file.

    Args:
        task: "auto" takes all that the file and the model have, and goes on by sound alone when no face is found.
        tasks: that the model was trained for.

    Raises:
        ValueError: naming the file and what it lacks.
    """
    has_audio, has_video = probe(path)
    if task == "auto":
        return _read_auto(path, has_audio, has_video, tasks, options, tell)
    if task not in tasks:
        raise ValueError(f"this model is for {', '.join(tasks)}, not for {task}")
    for modality, there in ((Modality.AUDIO, has_audio), (Modality.VIDEO, has_video)):
        if modality in task.modalities and not there:
            raise ValueError(f"{path} has no {modality} stream")
    return _read(path, task, options, tell)


def _read_auto(
    path: Path, has_audio: bool, has_video: bool, tasks: Collection[Task], options: VideoOptions, tell: Tell
) -> Recording:
    there = {Modality.AUDIO: has_audio, Modality.VIDEO: has_video}
    possible = [t for t in (Task.AVSR, Task.ASR, Task.VSR) if t in tasks and all(there[m] for m in t.modalities)]
    if not possible:
        streams = " and ".join(str(modality) for modality, found in there.items() if found)
        raise ValueError(f"{path} has {streams}, and this model is for {', '.join(tasks)}")
    notes: tuple[str, ...] = ()
    if Task.AVSR in tasks and possible[0] is not Task.AVSR:
        missing = Modality.VIDEO if has_audio else Modality.AUDIO
        notes = (f"no {missing} stream: {possible[0]} in place of avsr",)
    try:
        recording = _read(path, possible[0], options, tell)
    except MediaError as error:
        # Pictures that cannot be used are passed over, but not settings that are wrong, or a face that was asked for.
        if possible[0] is not Task.AVSR or Task.ASR not in possible or options.face is not None:
            raise
        recording = _read(path, Task.ASR, options, tell)
        notes = (f"asr in place of avsr: {error}",)
    return replace(recording, notes=(*notes, *recording.notes))


def _read(path: Path, task: Task, options: VideoOptions, tell: Tell) -> Recording:
    waveform = read_audio(path) if Modality.AUDIO in task.modalities else None
    crops = _crops(path, options, tell) if Modality.VIDEO in task.modalities else None
    notes: tuple[str, ...] = ()
    if waveform is not None and crops is not None:
        heard, seen = len(waveform) / SAMPLE_RATE, len(crops) / VIDEO_FPS
        if abs(heard - seen) > UNEVEN:
            shorter = Modality.VIDEO if seen < heard else Modality.AUDIO
            ends, whole = min(heard, seen), max(heard, seen)
            notes = (f"the {shorter} ends at {ends:.1f} s of {whole:.1f} s; what comes after it is left out of {task}",)
    return Recording(path, task, waveform, crops, notes)


def _crops(path: Path, options: VideoOptions, tell: Tell) -> np.ndarray:
    """Mouth crops: the frames themselves where they are crops already, else cut from around the face."""
    size = next(iter_video(path, grey=True)).shape
    is_crop = size == (MOUTH_SIZE, MOUTH_SIZE)
    if options.cropped and not is_crop:
        raise ValueError(
            f"{path}: mouth crops are {MOUTH_SIZE} x {MOUTH_SIZE} pixels, this video is {size[1]} x {size[0]}"
        )
    if is_crop and options.cropped is not False:
        return read_video(path, grey=True)
    # MediaPipe is heavy and an extra: it is imported only when a face has to be found.
    try:
        from omni_avsr.mouth.face_model import find_face_model
        from omni_avsr.mouth.video import crop_video
    except ImportError as error:
        raise ValueError(
            f"{path} is no video of mouth crops ({MOUTH_SIZE} x {MOUTH_SIZE}), and to find a face in it needs what "
            f"pip install 'omni-avsr[prepare]' brings ({error})"
        ) from error
    face_model = find_face_model(options.face_model)
    return crop_video(path, face_model, options.face, partial(tell, f"finding the face in {path.name}"))[0]
