"""A raw video file to mouth crops."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from omni_avsr.media import FRAME_RATE, NoFaceError, duration, iter_video
from omni_avsr.mouth.crops import mouth_crops, quality
from omni_avsr.mouth.face import detect_faces, detect_landmarks
from omni_avsr.mouth.tracks import face_tracks

MAX_FACES = 6
"""Faces that are followed when one of several has to be chosen."""


def crop_video(
    path: Path, face_model: Path, face: int | None = None, tell: Callable[[int, int], None] | None = None
) -> tuple[np.ndarray, dict[str, float]]:
    """Mouth crops uint8 [T, 96, 96] at 25 fps of the face in a video, and their quality.

    Args:
        face: which of several faces that stay, 0 is the one seen longest and largest. None takes the detector's first,
            which is faster.
        tell: is told how many frames were searched and how many there are, as far as the file's header says.

    Raises:
        NoFaceError: naming the file, when it shows no face, or not so many.
        MediaError: the file cannot be read.
    """
    landmarks = _landmarks(path, face_model, face, tell)
    if not any(points is not None for points in landmarks):
        raise NoFaceError(f"{path}: no face in any of {len(landmarks)} frames")
    try:
        # A second decoding is cheaper than holding every full frame of a long clip.
        return mouth_crops(iter_video(path, grey=True), landmarks), quality(landmarks)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _landmarks(
    path: Path, face_model: Path, face: int | None, tell: Callable[[int, int], None] | None
) -> Sequence[np.ndarray | None]:
    frames = iter_video(path) if tell is None else _told(path, tell)
    if face is None:
        return detect_landmarks(frames, FRAME_RATE, face_model)
    tracks = face_tracks(list(detect_faces(frames, FRAME_RATE, face_model, MAX_FACES)))
    if not 0 <= face < len(tracks):
        raise NoFaceError(f"{path}: there is no face {face}; {len(tracks)} were found, counted from 0")
    return tracks[face]


def _told(path: Path, tell: Callable[[int, int], None]) -> Iterator[np.ndarray]:
    total = round(duration(path) * FRAME_RATE)
    for done, pixels in enumerate(iter_video(path), 1):
        yield pixels
        tell(done, max(done, total))
