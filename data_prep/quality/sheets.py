"""Contact sheets: which clips to look at, and a strip of frames of each."""

from __future__ import annotations

import heapq
import math
import random
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from omni_avsr.media import iter_video
from omni_avsr.types import Clip

NUM_CLIPS = 24
NUM_FRAMES = 5
TILE = 96
"""Side in pixels of a frame in a strip: mouth crops are shown as they are."""
STRIP_WIDTH = NUM_FRAMES * TILE

_MAX_FRAMES = 750
_JPEG_QUALITY = 80


@dataclass(frozen=True)
class Strip:
    """Frames of one clip side by side.

    picture: data URI of a JPEG, TILE pixels high and STRIP_WIDTH wide; None when nothing could be read.
    problem: what went wrong while reading, or "".
    """

    picture: str | None
    problem: str


def random_clips(clips: Sequence[Clip], seed: int) -> list[Clip]:
    """Up to NUM_CLIPS clips that have video, in the order of ``clips``."""
    seen = [clip for clip in clips if clip.video is not None]
    chosen = random.Random(seed).sample(range(len(seen)), min(NUM_CLIPS, len(seen)))
    return [seen[index] for index in sorted(chosen)]


def worst_clips(clips: Sequence[Clip]) -> list[Clip]:
    """Up to NUM_CLIPS clips that have video and were searched for faces: the lowest share of frames with a face first,
    and of equal ones the smallest face."""
    searched = [clip for clip in clips if clip.video is not None and "detected" in clip.quality]
    return heapq.nsmallest(
        NUM_CLIPS,
        searched,
        key=lambda clip: (clip.quality["detected"], clip.quality.get("face_size", math.inf), clip.id),
    )


def film_strip(clip: Clip) -> Strip:
    """Frames spread evenly over the clip's video, or over its first half minute. Never raises: a clip that cannot be
    read is a finding of the page. Nothing behind the last frame that is shown is decoded."""
    wanted = _spread(clip.num_frames)
    try:
        frames = _read_frames(clip, wanted)
    except Exception as error:  # whatever a broken file upsets, the page is about the other clips too
        return Strip(None, str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}")
    if not frames:
        return Strip(None, "the video holds no frames")
    problem = "" if len(frames) == len(wanted) else f"the video ends before frame {wanted[len(frames)]}"
    row = np.full((TILE, STRIP_WIDTH), 128, np.uint8)
    for place, pixels in enumerate(frames):
        row[:, place * TILE : (place + 1) * TILE] = _tile(pixels)
    written, jpeg = cv2.imencode(".jpg", row, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    if not written:
        return Strip(None, "the frames cannot be written as JPEG")
    return Strip(f"data:image/jpeg;base64,{b64encode(jpeg.tobytes()).decode('ascii')}", problem)


def _spread(num_frames: int) -> list[int]:
    """The middles of NUM_FRAMES equal stretches; fewer frames than that are all taken."""
    count = min(max(1, num_frames), _MAX_FRAMES)
    return sorted({(2 * place + 1) * count // (2 * NUM_FRAMES) for place in range(NUM_FRAMES)})


def _read_frames(clip: Clip, wanted: Sequence[int]) -> list[np.ndarray]:
    assert clip.video is not None
    frames: list[np.ndarray] = []
    for index, pixels in enumerate(iter_video(clip.video, grey=True)):
        if index == wanted[len(frames)]:
            frames.append(pixels)
        if len(frames) == len(wanted):
            break
    return frames


def _tile(pixels: np.ndarray) -> np.ndarray:
    """A frame of any size fitted into a square tile, uint8 [TILE, TILE], on black."""
    height, width = pixels.shape
    scale = TILE / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    fitted = pixels if scale == 1 else cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    tile = np.zeros((TILE, TILE), np.uint8)
    top, left = (TILE - size[1]) // 2, (TILE - size[0]) // 2
    tile[top : top + size[1], left : left + size[0]] = fitted
    return tile
