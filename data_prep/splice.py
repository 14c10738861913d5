"""Splice prepared clips at their word boundaries into new sentences, so that no word tells which other words are near.

A small corpus of fixed sentence frames (GRID) can be learned by heart: an encoder that cannot see a letter may still
know which recording it is looking at. Spliced clips take that clue away. They are made once, as a corpus of their own.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import ceil, floor
from pathlib import Path

import numpy as np
import torch

from omni_avsr.data.manifest import read_manifest, write_manifest
from omni_avsr.media import FRAME_RATE, SAMPLE_RATE, read_audio, read_video, write_audio, write_video
from omni_avsr.types import Clip, Word

SAMPLES_PER_FRAME = int(SAMPLE_RATE / FRAME_RATE)
NUM_PARTS = 3
"""Each new clip is the beginning of one recording, the middle of a second and the end of a third."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Part:
    """Frames ``start`` to ``stop`` of ``clip``, in which its words ``first`` to ``last`` (exclusive) are spoken."""

    clip: Clip
    start: int
    stop: int
    first: int
    last: int


def splice_corpus(
    manifest: Path,
    output: Path,
    num_clips: int,
    seed: int,
    margin: float,
    track: Callable[[Iterable[int]], Iterable[int]] = iter,
) -> Path:
    """Write ``num_clips`` spliced training clips below ``output``, and their manifest; returns its path.

    Only training clips with word times, audio and video are used, and only those of one speaker and of equally many
    words together, at the same places, so that a sentence frame is kept. Clip k depends on (seed, k) and the manifest.
    A clip whose files are there is not made again.

    Raises:
        ValueError: no speaker has three such clips, or a clip cannot be decoded.
    """
    groups = _groups(read_manifest(manifest, check_files=True))
    if not groups:
        raise ValueError(
            f"{manifest}: splicing needs a speaker with {NUM_PARTS} training clips of equally many words (at least "
            f"{NUM_PARTS}), each with word times, audio and video"
        )
    clips = []
    for number in track(range(num_clips)):
        generator = torch.Generator().manual_seed(seed * 1_000_003 + number)
        parts = draw_parts(groups, margin, generator)
        clip = _clip(parts, f"spliced/{number:06d}", output)
        assert clip.audio is not None
        assert clip.video is not None
        if not (clip.audio.is_file() and clip.video.is_file()):
            write_video(clip.video, join(parts, _frames, 1), FRAME_RATE, lossless=True)
            write_audio(clip.audio, join(parts, _samples, SAMPLES_PER_FRAME))
        clips.append(clip)
    path = output / "manifest.jsonl"
    write_manifest(path, clips)
    log.info("%d clips spliced from %d: %s", num_clips, sum(map(len, groups)), path)
    return path


def draw_parts(groups: Sequence[Sequence[Clip]], margin: float, generator: torch.Generator) -> list[Part]:
    """Three clips of one group, cut after the same two random words, and trimmed to at most ``margin`` at the ends."""
    sizes = torch.tensor([len(group) for group in groups], dtype=torch.float)
    group = groups[int(torch.multinomial(sizes, 1, generator=generator))]
    chosen = [group[index] for index in torch.randperm(len(group), generator=generator)[:NUM_PARTS].tolist()]
    num_words = len(chosen[0].words)
    cuts = (1 + torch.randperm(num_words - 1, generator=generator)[: NUM_PARTS - 1]).sort().values.tolist()
    bounds = [0, *cuts, num_words]
    before, after = (torch.rand(2, generator=generator) * margin).tolist()
    parts = []
    for clip, (first, last) in zip(chosen, pairwise(bounds), strict=True):
        words = clip.words
        start = max(0, floor((words[0].start - before) * FRAME_RATE)) if first == 0 else _cut(clip, first)
        end = min(clip.num_frames, ceil((words[-1].end + after) * FRAME_RATE))
        stop = end if last == num_words else _cut(clip, last)
        parts.append(Part(clip, start, stop, first, last))
    return parts


def join(parts: Sequence[Part], read: Callable[[Clip], np.ndarray], steps_per_frame: int) -> np.ndarray:
    """The parts' frames or samples, one behind the other."""
    return np.concatenate(
        [read(part.clip)[part.start * steps_per_frame : part.stop * steps_per_frame] for part in parts]
    )


def _groups(clips: Sequence[Clip]) -> list[list[Clip]]:
    groups: dict[tuple[str | None, int], list[Clip]] = defaultdict(list)
    for clip in clips:
        spoken = " ".join(word.text for word in clip.words)
        if clip.split == "train" and clip.audio and clip.video and spoken == clip.text and _can_be_cut(clip):
            groups[clip.speaker, len(clip.words)].append(clip)
    return [group for _, group in sorted(groups.items(), key=lambda item: str(item[0])) if len(group) >= NUM_PARTS]


def _can_be_cut(clip: Clip) -> bool:
    """Whether every part between neighbouring cuts holds at least one frame."""
    cuts = [0, *(_cut(clip, place) for place in range(1, len(clip.words))), clip.num_frames]
    return len(clip.words) >= NUM_PARTS and all(before < after for before, after in pairwise(cuts))


def _cut(clip: Clip, place: int) -> int:
    """The frame at which ``clip`` is cut before its word ``place``: halfway through any pause there."""
    return round((clip.words[place - 1].end + clip.words[place].start) / 2 * FRAME_RATE)


def _clip(parts: Sequence[Part], name: str, output: Path) -> Clip:
    words: list[Word] = []
    num_frames = 0
    for part in parts:
        shift = (num_frames - part.start) / FRAME_RATE
        words += [
            replace(word, start=round(word.start + shift, 4), end=round(word.end + shift, 4))
            for word in part.clip.words[part.first : part.last]
        ]
        num_frames += part.stop - part.start
    return Clip(
        id=name,
        text=" ".join(word.text for word in words),
        split="train",
        seconds=num_frames / FRAME_RATE,
        audio=output / "audio" / f"{name}.flac",
        video=output / "video" / f"{name}.mp4",
        num_frames=num_frames,
        speaker=parts[0].clip.speaker,
        words=tuple(words),
    )


def _frames(clip: Clip) -> np.ndarray:
    assert clip.video is not None
    return read_video(clip.video, grey=True)


def _samples(clip: Clip) -> np.ndarray:
    assert clip.audio is not None
    return read_audio(clip.audio)
