"""The page of ``omni-avsr demo``: a clip in; its mouth, its transcript and the cost out, at one rate and at all."""

from __future__ import annotations

import math
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeVar
from uuid import uuid4

import gradio as gr
import numpy as np

from omni_avsr.decode import settings_of
from omni_avsr.media import FRAME_RATE, write_video
from omni_avsr.recording import Recording, TaskChoice, VideoOptions, read_recording
from omni_avsr.transcribe import TranscribeOptions, Transcriber
from omni_avsr.transcript import Transcript
from omni_avsr.types import Modality, Rates, Task

HOUR = 3600
"""Seconds after which a visitor's clips are removed."""
ENLARGED = 3
"""How many times larger than they are the mouth crops are shown."""
WORD_COLUMNS = ["word", "from, s", "to, s"]
RATE_COLUMNS = ["rates", "transcript", "audio tokens", "video tokens", "time, s"]
Result = TypeVar("Result")
_FONT = ["ui-sans-serif", "system-ui", "sans-serif"]


@dataclass(frozen=True)
class Shown:
    """What the page shows of a clip, in the order of its outputs."""

    mouth: str | None
    text: str
    words: list[list[str | float]]
    cost: str
    rates: list[list[str | float]]


def build_page(transcriber: Transcriber) -> gr.Blocks:
    """The page for one checkpoint."""
    model = transcriber.model.config
    files = tempfile.TemporaryDirectory(prefix="omni-avsr-")  # goes away with the process
    choices = ["auto", *map(str, model.tasks)] if len(model.tasks) > 1 else [str(model.tasks[0])]
    with gr.Blocks(title="omni_avsr", analytics_enabled=False, delete_cache=(HOUR, HOUR)) as page:
        gr.Markdown(
            "# Audio-visual speech recognition\n"
            f"This checkpoint knows: {transcriber.training.get('domain', 'not stated')}."
        )
        with gr.Row():
            with gr.Column():
                with gr.Tab("Video"):
                    video = gr.Video(sources=["upload", "webcam"], include_audio=True, label="clip", elem_id="video")
                with gr.Tab("Sound"):
                    sound = gr.Audio(sources=["upload", "microphone"], type="filepath", label="clip", elem_id="sound")
                task = gr.Radio(choices, value=choices[0], label="task", elem_id="task")
                rates = model.compression
                audio_rate = _slider("audio rate", rates.audio_rates, Modality.AUDIO in _modalities(model.tasks))
                video_rate = _slider("video rate", rates.video_rates, Modality.VIDEO in _modalities(model.tasks))
                button = gr.Button("Transcribe", variant="primary", elem_id="transcribe")
            with gr.Column():
                text = gr.Textbox(label="transcript", lines=2, elem_id="transcript")
                mouth = gr.Video(label="what the model sees", autoplay=True, loop=True, elem_id="mouth")
                words = gr.Dataframe(headers=WORD_COLUMNS, label="words", elem_id="words")
                cost = gr.Markdown(elem_id="cost")
        table = gr.Dataframe(headers=RATE_COLUMNS, label="the same clip at all rates", wrap=True, elem_id="rates")

        def transcribe(
            video: str | None, sound: str | None, task: str, audio_rate: float, video_rate: float
        ) -> tuple[object, ...]:
            chosen = Rates(nearest(audio_rate, rates.audio_rates), nearest(video_rate, rates.video_rates))
            if not (clip := video or sound):
                raise gr.Error("Choose or record a clip first.", print_exception=False)
            if video and sound:
                raise gr.Error("There are a video and a sound: take one of them away.", print_exception=False)
            try:
                shown = show(
                    transcriber, Path(clip), "auto" if task == "auto" else Task(task), chosen, Path(files.name)
                )
            except ValueError as error:
                # A file that cannot be read is the visitor's business, not a fault of the program.
                raise gr.Error(str(error).replace(clip, Path(clip).name), print_exception=False) from error
            return shown.mouth, shown.text, shown.words, shown.cost, shown.rates

        button.click(
            transcribe,
            [video, sound, task, audio_rate, video_rate],
            [mouth, text, words, cost, table],
            api_name="transcribe",
            concurrency_limit=1,  # adapters are switched on the model itself: visitors take turns
        )
    return page


def launch(page: gr.Blocks, host: str, port: int | None) -> str:
    """Serve the page from another thread; returns its address. OSError: the port is taken."""
    _, address, _ = page.launch(
        server_name=host,
        server_port=port,
        prevent_thread_lock=True,
        quiet=True,
        theme=gr.themes.Default(font=_FONT, font_mono=["ui-monospace", "monospace"]),
    )
    return address


def show(transcriber: Transcriber, path: Path, task: TaskChoice, rates: Rates, folder: Path) -> Shown:
    """Transcribe a clip at the chosen rates and at all others.

    Args:
        folder: where the video of the mouth is written.

    Raises:
        ValueError: the clip cannot be read, or lacks what the task needs.
    """
    options = TranscribeOptions(rates=rates, video=VideoOptions(face_model=transcriber.face_model))
    tasks = transcriber.model.config.tasks
    recording, reading = _timed(partial(read_recording, path, task, tasks, options.video))
    chosen, writing = _timed(partial(transcriber.of_recording, recording, options))
    rows: list[list[str | float]] = []
    for _, pair in settings_of(transcriber.model, [recording.task]):
        transcript, seconds = chosen, writing
        if pair.label(recording.task) != rates.label(recording.task):
            transcript, seconds = _timed(partial(transcriber.of_recording, recording, replace(options, rates=pair)))
        tokens = [transcript.num_tokens.get(modality, 0) for modality in Modality]
        rows.append([pair.label(recording.task), transcript.text, *tokens, round(seconds, 2)])
    return Shown(
        mouth=_mouth_file(recording, folder),
        text=chosen.text,
        words=[[word.text, round(word.start, 2), round(word.end, 2)] for word in chosen.words],
        cost=_cost(chosen, reading, writing),
        rates=rows,
    )


def nearest(value: float, rates: Sequence[int]) -> int:
    """The trained rate that a slider's position stands for."""
    return min(rates, key=lambda rate: (abs(rate - value), rate))


def _slider(label: str, rates: Sequence[int], used: bool) -> gr.Slider:
    low, high = min(rates), max(rates)
    step = math.gcd(*(rate - low for rate in rates)) or 1
    info = f"encoder frames to a token; trained: {', '.join(map(str, sorted(rates)))}"
    return gr.Slider(
        low, max(high, low + step), low, step=step, label=label, info=info, visible=used and len(rates) > 1,
        elem_id=label.replace(" ", "-"),
    )  # fmt: skip


def _modalities(tasks: Sequence[Task]) -> set[Modality]:
    return {modality for task in tasks for modality in task.modalities}


def _timed(work: Callable[[], Result]) -> tuple[Result, float]:
    """What ``work`` gives, and the seconds that it took."""
    begun = time.perf_counter()
    result = work()
    return result, time.perf_counter() - begun


def _mouth_file(recording: Recording, folder: Path) -> str | None:
    """The mouth crops as a video that browsers play, or None when the task does not see."""
    if recording.crops is None:
        return None
    for earlier in folder.glob("*.mp4"):  # Gradio has copied them to its cache
        earlier.unlink(missing_ok=True)
    large = recording.crops.repeat(ENLARGED, axis=1).repeat(ENLARGED, axis=2)
    path = folder / f"{uuid4().hex}.mp4"
    write_video(path, np.stack([large] * 3, axis=-1), FRAME_RATE)
    return str(path)


def _cost(transcript: Transcript, reading: float, writing: float) -> str:
    tokens = ", ".join(f"{count} {modality} tokens" for modality, count in transcript.num_tokens.items())
    lines = [
        f"task: {transcript.task} at {transcript.rates.label(transcript.task)}",
        f"the clip has {transcript.seconds:.2f} s; reading it took {reading:.2f} s, writing it down {writing:.2f} s",
        f"{tokens}; peak memory of this process {_peak_megabytes():,.0f} MB",
        *(f"**note**: {note}" for note in transcript.notes),
    ]
    return "\n".join(f"- {line}" for line in lines)


def _peak_megabytes() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
