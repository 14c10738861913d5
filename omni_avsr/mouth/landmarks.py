"""Face landmarks of every frame of a clip, by MediaPipe's Face Landmarker."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import mediapipe
import numpy as np
from mediapipe.tasks.python import BaseOptions, vision

NUM_LANDMARKS = 478


def detect_landmarks(frames: Iterable[np.ndarray], fps: float, face_model: Path) -> list[np.ndarray | None]:
    """Per frame the 478 landmarks of the most prominent face in pixels, [478, 2] float64 (x, y), or None."""
    return [faces[0] if faces else None for faces in detect_faces(frames, fps, face_model, 1)]


def detect_faces(
    frames: Iterable[np.ndarray], fps: float, face_model: Path, max_faces: int
) -> Iterator[list[np.ndarray]]:
    """Per frame the landmarks of at most ``max_faces`` faces in pixels, [478, 2] float64 (x, y) each.

    frames: uint8 RGB [H, W, 3]. The landmarker tracks from frame to frame, and its filter even depends on absolute
    time; each call makes its own landmarker and counts from zero, so that a clip's landmarks depend on nothing but
    the clip. That costs about 20 ms. With more than one face it searches every frame anew, which is slower.

    Raises:
        ValueError: the model file is none.
    """
    options = vision.FaceLandmarkerOptions(
        base_options=BaseOptions(model_asset_path=str(face_model)),
        running_mode=vision.RunningMode.VIDEO,
        num_faces=max_faces,
    )
    with _quiet_stderr():
        try:
            landmarker = vision.FaceLandmarker.create_from_options(options)
        except (RuntimeError, ValueError, OSError) as error:
            raise ValueError(f"{face_model} is no face model that MediaPipe can use: {error}") from error
    with landmarker:
        for index, pixels in enumerate(frames):
            image = mediapipe.Image(mediapipe.ImageFormat.SRGB, np.ascontiguousarray(pixels))
            # At its first frames it says how it was built.
            with _quiet_stderr() if index < 2 else nullcontext():
                faces = landmarker.detect_for_video(image, round(1000 * index / fps)).face_landmarks
            size = pixels.shape[1], pixels.shape[0]
            yield [np.array([(point.x, point.y) for point in face]) * size for face in faces]


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
