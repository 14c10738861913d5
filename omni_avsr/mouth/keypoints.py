"""The points of a face by MediaPipe's small face detector: six of them, each a few pixels off, in little time."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import mediapipe
import numpy as np
from mediapipe.tasks.python import BaseOptions, vision

from omni_avsr.mouth.crops import FaceGeometry
from omni_avsr.mouth.native import ignore_profiling_signal, quiet_stderr

KEYPOINTS = FaceGeometry(
    # Eyes and mouth. The mouth moves in speech, but smoothed over 12 frames it is a good mark of the head's tilt.
    stable=(0, 1, 3),
    reference=np.array([(-0.372, 0.0), (0.372, 0.0), (0.0, 0.830)]),
    mouth=(3,),
    mouth_offset=np.array([0.0, -0.015]),
)
"""Measured for this project as ``landmarks.REFERENCE`` was, on the same speakers: where the detector's keypoints lie in
crops that the landmarks placed, averaged over speakers, made symmetric and rounded."""
KEYPOINT_STRIDE = 4
"""Every fourth frame is searched, since crops are smoothed over 12."""

_MODEL_NAME = "face_detector.tflite"


def detect_keypoints(frames: Iterable[np.ndarray], face_model: Path) -> Iterator[list[np.ndarray]]:
    """Per frame the points of each face in pixels, float64 [8, 2] (x, y), the surest face first.

    The points: the eyes (the one on the image's left first), tip of the nose, mouth, ears, and two corners of the box
    around the face. Each frame is searched by itself.

    Args:
        frames: uint8 RGB [H, W, 3].
        face_model: MediaPipe's face_landmarker.task, which holds the detector too.

    Raises:
        ValueError: the model file is none.
    """
    ignore_profiling_signal()
    try:
        with zipfile.ZipFile(face_model) as bundle, quiet_stderr():
            base = BaseOptions(model_asset_buffer=bundle.read(_MODEL_NAME))
            detector = vision.FaceDetector.create_from_options(vision.FaceDetectorOptions(base_options=base))
    except (zipfile.BadZipFile, KeyError, RuntimeError, ValueError, OSError) as error:
        raise ValueError(f"{face_model} is no face model that MediaPipe can use: {error}") from error
    try:
        for index, pixels in enumerate(frames):
            image = mediapipe.Image(mediapipe.ImageFormat.SRGB, np.ascontiguousarray(pixels))
            with quiet_stderr(index < 2):
                found = detector.detect(image).detections
            size = pixels.shape[1], pixels.shape[0]
            yield [_points(face, size) for face in found]
    finally:
        with quiet_stderr():
            detector.close()


def _points(face: vision.FaceDetectorResult, size: tuple[int, int]) -> np.ndarray:
    box = face.bounding_box
    left, top = box.origin_x, box.origin_y
    corners = np.array([(left, top), (left + box.width, top + box.height)], np.float64)
    return np.concatenate([np.array([(point.x, point.y) for point in face.keypoints]) * size, corners])
