"""Pieces of recordings that a model takes at once: where they are cut, and what is said in them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from omni_avsr.config import DraftConfig
from omni_avsr.encoders.access import ctc_parts, encoder_of
from omni_avsr.encoders.ctc import BLANK, SPACE
from omni_avsr.encoders.ctc_align import align_words
from omni_avsr.features import SAMPLE_RATE, VIDEO_FPS, prepare_video, prepare_waveform
from omni_avsr.model import OmniAVSR
from omni_avsr.recording import Recording, Tell
from omni_avsr.types import Features, Modality, Rates, Task, Word
from omni_avsr.windows import OVERLAP, Window, cut, loud_times, overlapping


@dataclass(frozen=True)
class Piece:
    """What a window over a recording shows of it."""

    recording: Recording
    window: Window

    @property
    def seconds(self) -> float:
        return self.window.end - self.window.start


@dataclass(frozen=True)
class Said:
    """What was said in a piece. words: with times from the recording's start; empty without a CTC head."""

    text: str
    words: tuple[Word, ...]
    num_tokens: Mapping[Modality, int]


@torch.no_grad()
def cut_recording(model: OmniAVSR, recording: Recording, longest: float, tell: Tell) -> list[Piece]:
    """The whole recording, or pieces of at most ``longest`` seconds that are cut at its pauses.

    A pause is where the CTC head of the task's first modality writes no character; pieces overlap where pauses are
    short. Without such a head, which also gives the words' times, a pause is where the sound is quiet.

    Raises:
        ValueError: a silent video is too long, and the model has no CTC head to find its pauses.
    """
    if recording.seconds <= longest:
        return [Piece(recording, Window(0.0, recording.seconds, 0.0, recording.seconds))]
    modality = _hearer(model, recording.task)
    overlap = 0.0 if modality is None else OVERLAP
    if modality is not None:
        active = _written_times(model, recording, modality, longest, tell)
    elif recording.waveform is not None:
        active = loud_times(recording.waveform, SAMPLE_RATE)
    else:
        raise ValueError(
            f"{recording.path} has {recording.seconds:.1f} s, more than the {longest:.1f} s that this model takes at "
            "once, and without a CTC head it cannot find the pauses of a silent video; cut it into shorter files"
        )
    return [Piece(recording, window) for window in cut(active, recording.seconds, longest, overlap)]


@torch.no_grad()
def say(
    model: OmniAVSR,
    pieces: Sequence[Piece],
    rates: Rates,
    num_beams: int,
    max_new_tokens: int,
    draft: DraftConfig | None = None,
) -> list[Said]:
    """Transcribe a batch of pieces of one task."""
    task = pieces[0].recording.task
    features = model.encode(_inputs(model, pieces, task.modalities))
    texts = model.generate(features, task, rates, num_beams, max_new_tokens, draft=draft)
    tokens = model.tokens(features, task, rates)
    modality = _hearer(model, task)
    found = None if modality is None else ctc_parts(model, modality)[1](features[modality])
    said = []
    for row, (piece, text) in enumerate(zip(pieces, texts, strict=True)):
        words: tuple[Word, ...] = ()
        if modality is not None and found is not None:
            log_probs = found.values[row, : int(found.lengths[row])].float().cpu().numpy()
            words = align_words(log_probs, text.split(), model.frame_rates[modality])
        said.append(
            Said(
                text, _later(words, piece.window.start), {name: int(part.lengths[row]) for name, part in tokens.items()}
            )
        )
    return said


def _hearer(model: OmniAVSR, task: Task) -> Modality | None:
    """The first modality of the task whose encoder has a CTC head."""
    return next((modality for modality in task.modalities if encoder_of(model, modality).ctc is not None), None)


def _inputs(model: OmniAVSR, pieces: Sequence[Piece], modalities: Collection[Modality]) -> dict[Modality, Features]:
    rows: dict[Modality, list[Tensor]] = {}
    for piece in pieces:
        waveform, crops = piece.recording.waveform, piece.recording.crops
        start, end = piece.window.start, piece.window.end
        if waveform is not None and Modality.AUDIO in modalities:
            samples = torch.from_numpy(waveform[round(start * SAMPLE_RATE) : round(end * SAMPLE_RATE)])
            rows.setdefault(Modality.AUDIO, []).append(prepare_waveform(samples, model.config.waveform))
        if crops is not None and Modality.VIDEO in modalities:
            frames = torch.from_numpy(crops[round(start * VIDEO_FPS) : round(end * VIDEO_FPS)])
            rows.setdefault(Modality.VIDEO, []).append(prepare_video(frames))
    return {modality: Features.pad(values).to(model.device) for modality, values in rows.items()}


def _written_times(
    model: OmniAVSR, recording: Recording, modality: Modality, longest: float, tell: Tell
) -> list[float]:
    """When the CTC head writes a character, in seconds."""
    times = []
    _, head = ctc_parts(model, modality)
    windows = overlapping(recording.seconds, longest)
    for number, window in enumerate(windows):
        features = model.encode(_inputs(model, [Piece(recording, window)], {modality}))
        best = head(features[modality]).values[0].argmax(-1)
        written = torch.nonzero((best != BLANK) & (best != SPACE)).flatten()
        found = [window.start + (frame + 0.5) / model.frame_rates[modality] for frame in written.tolist()]
        times += [time for time in found if window.begin <= time < window.stop]
        tell("finding pauses", number + 1, len(windows))
    return times


def _later(words: Sequence[Word], seconds: float) -> tuple[Word, ...]:
    return tuple(replace(w, start=round(w.start + seconds, 3), end=round(w.end + seconds, 3)) for w in words)
