"""Face landmarks of every frame of a clip, by MediaPipe's Face Landmarker."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import mediapipe
import numpy as np
from mediapipe.tasks.python import BaseOptions, vision

NUM_LANDMARKS = 478
FACE_MODEL_VARIABLE = "OMNI_AVSR_FACE_MODEL"


def find_face_model(path: str | os.PathLike[str] | None = None) -> Path:
    """The landmarker's model file: ``path``, else the environment variable OMNI_AVSR_FACE_MODEL. ValueError if absent.

    MediaPipe ships no models; ``face_landmarker.task`` is a download from its model page.
    """
    chosen = path or os.environ.get(FACE_MODEL_VARIABLE)
    if not chosen:
        raise ValueError(
            "no face model given: download face_landmarker.task from MediaPipe's Face Landmarker page and pass its "
            f"path or set {FACE_MODEL_VARIABLE}"
        )
    if not Path(chosen).is_file():
        raise ValueError(f"face model {chosen} does not exist")
    return Path(chosen)


def detect_landmarks(frames: Iterable[np.ndarray], fps: float, face_model: Path) -> list[np.ndarray | None]:
    """Per frame the 478 landmarks of the most prominent face in pixels, [478, 2] float64 (x, y), or None.

    frames: uint8 RGB [H, W, 3]. The landmarker tracks from frame to frame, and its filter even depends on absolute
    time; each call makes its own landmarker and counts from zero, so that a clip's landmarks depend on nothing but
    the clip. That costs about 20 ms.
    """
    options = vision.FaceLandmarkerOptions(
        base_options=BaseOptions(model_asset_path=str(face_model)), running_mode=vision.RunningMode.VIDEO
    )
    landmarks: list[np.ndarray | None] = []
    with _quiet_stderr(), vision.FaceLandmarker.create_from_options(options) as landmarker:
        for index, pixels in enumerate(frames):
            image = mediapipe.Image(mediapipe.ImageFormat.SRGB, np.ascontiguousarray(pixels))
            faces = landmarker.detect_for_video(image, round(1000 * index / fps)).face_landmarks
            size = pixels.shape[1], pixels.shape[0]
            landmarks.append(np.array([(point.x, point.y) for point in faces[0]]) * size if faces else None)
    return landmarks


@contextmanager
def _quiet_stderr() -> Iterator[None]:
    """Hide what native code writes to stderr: MediaPipe logs there at every start, whatever log level is set."""
    saved = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(nowhere)
        os.close(saved)
