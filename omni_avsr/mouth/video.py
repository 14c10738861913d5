"""A raw video file to mouth crops."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from enum import StrEnum
from pathlib import Path

import numpy as np

from omni_avsr.media import FRAME_RATE, NoFaceError, Span, duration, iter_video
from omni_avsr.mouth.crops import FaceGeometry, crop_transforms, mouth_crops, quality
from omni_avsr.mouth.keypoints import KEYPOINT_STRIDE, KEYPOINTS, detect_keypoints
from omni_avsr.mouth.landmarks import LANDMARK_STRIDE, LANDMARKS, detect_landmarks
from omni_avsr.mouth.tracks import face_tracks

MAX_FACES = 6
"""Faces that are followed when one of several has to be chosen."""
SCOUT_STRIDE = 12
"""Every so many frames the small detector looks whether there are several faces."""

Faces = list[np.ndarray]
Tell = Callable[[int, int], None]


class FaceFinder(StrEnum):
    """What finds the points of a face: MediaPipe's Face Landmarker, or its small face detector, the fast path."""

    LANDMARKER = "landmarker"
    DETECTOR = "detector"

    @property
    def stride(self) -> int:
        """Every so many frames are searched."""
        return LANDMARK_STRIDE if self is FaceFinder.LANDMARKER else KEYPOINT_STRIDE

    @property
    def geometry(self) -> FaceGeometry:
        return LANDMARKS if self is FaceFinder.LANDMARKER else KEYPOINTS


def crop_video(
    path: Path,
    face_model: Path,
    face: int | None = None,
    tell: Tell | None = None,
    *,
    finder: FaceFinder = FaceFinder.LANDMARKER,
    span: Span | None = None,
    grey: bool = True,
    max_seconds: float = math.inf,
) -> tuple[np.ndarray, dict[str, float]]:
    """Mouth crops at 25 fps of a face that stays in a video, and their quality (``crops.quality``).

    Args:
        face: which of several, 0 is the one seen longest and largest; None is that one, too.
        tell: is told how many frames were searched and how many there are, as far as the file's header says.
        span: the stretch of the file, in seconds.
        max_seconds: of a file that goes on longer, no more is decoded.

    Returns:
        uint8 [T, 96, 96], or [T, 96, 96, 3] (RGB) unless ``grey``.

    Raises:
        NoFaceError: naming the file, when it shows no face, or not so many.
        MediaError: the file cannot be read.
        TooLongError: it is longer than ``max_seconds``.
        ValueError: the face model is none.
    """
    track, num_searched = find_face(path, face_model, finder, face, span, tell, max_seconds)
    transforms = crop_transforms(track, finder.geometry)
    # A second decoding is cheaper than holding every full frame of a long clip. It tells how many there are.
    frames = iter_video(path, grey=grey, span=span)
    return mouth_crops(frames, transforms), quality(track, num_searched)


def find_face(
    path: Path,
    face_model: Path,
    finder: FaceFinder,
    face: int | None = None,
    span: Span | None = None,
    tell: Tell | None = None,
    max_seconds: float = math.inf,
) -> tuple[list[np.ndarray | None], int]:
    """The points of a face in each frame of a video, and how many frames were searched; arguments as ``crop_video``.

    Points are [N, 2] in pixels, which ones says ``finder.geometry``; None where none were searched or found. There may
    be up to ``finder.stride - 1`` more than the video has frames.
    """
    found = _search(path, face_model, face, finder, span, max_seconds)
    detections = list(_told(found, path, finder.stride, span, tell))
    tracks = face_tracks(list(_spread(detections, finder.stride)))
    if not tracks:
        raise NoFaceError(f"{path}: no face in any of {len(detections)} frames that were searched")
    if face is not None and not 0 <= face < len(tracks):
        raise NoFaceError(f"{path}: there is no face {face}; {len(tracks)} were found, counted from 0")
    return tracks[face or 0], len(detections)


def _search(
    path: Path, face_model: Path, face: int | None, finder: FaceFinder, span: Span | None, max_seconds: float
) -> Iterator[Faces]:
    """The faces of every ``finder.stride``-th frame."""
    frames = iter_video(path, span=span, every=finder.stride, max_seconds=max_seconds)
    if finder is FaceFinder.DETECTOR:
        return detect_keypoints(frames, face_model)
    several = face is not None or _shows_several(path, face_model, span, max_seconds)
    return detect_landmarks(frames, FRAME_RATE / finder.stride, face_model, MAX_FACES if several else 1)


def _shows_several(path: Path, face_model: Path, span: Span | None, max_seconds: float) -> bool:
    """Whether there are several faces to choose from; searching for one only is three times as fast."""
    frames = iter_video(path, span=span, every=SCOUT_STRIDE, max_seconds=max_seconds)
    return any(len(faces) > 1 for faces in detect_keypoints(frames, face_model))


def _spread(detections: Iterable[Faces], stride: int) -> Iterator[Faces]:
    """The detections with nothing between them for the frames that were not searched."""
    for faces in detections:
        yield faces
        yield from ([] for _ in range(stride - 1))


def _told(
    detections: Iterator[Faces], path: Path, stride: int, span: Span | None, tell: Tell | None
) -> Iterator[Faces]:
    if tell is None:
        yield from detections
        return
    seconds = duration(path)
    if span is not None:
        seconds = min(seconds, span[1]) - span[0]
    total = round(seconds * FRAME_RATE)
    for number, faces in enumerate(detections, 1):
        yield faces
        tell(number * stride, max(number * stride, total))
