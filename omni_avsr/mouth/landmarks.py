"""The points of a face by MediaPipe's Face Landmarker: accurate, and most of the time that a crop takes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import mediapipe
import numpy as np
from mediapipe.tasks.python import BaseOptions, vision

from omni_avsr.mouth.crops import FaceGeometry
from omni_avsr.mouth.native import ignore_profiling_signal, quiet_stderr

REFERENCE = {
    33: (-0.500, 0.000),  # outer eye corner on the image's left
    133: (-0.194, 0.020),  # inner eye corner
    362: (0.194, 0.020),
    263: (0.500, 0.000),
    168: (0.000, -0.030),  # bridge of the nose
    1: (0.000, 0.470),  # tip of the nose
    2: (0.000, 0.551),  # where the nose meets the lip
}
"""Where seven points that speech does not move lie in a frontal face, by their numbers in MediaPipe's face mesh.

In outer-eye distances from the middle between the outer eye corners, x to the image's right, y down. Measured for this
project and not taken from a publication: MediaPipe's Face Landmarker on clips of seven GRID speakers (s1, s3, s4, s5,
s22, s26, s32) facing the camera, each frame brought to this frame of reference, averaged over frames and speakers, made
symmetric and rounded. Seven people are few: the points fix the scale and the level of a crop, and what a crop shows is
comparable only to crops made with the same numbers. Between the speakers the inner eye corners vary by about 0.01
(standard deviation), the points on the nose by up to 0.05. The speakers above but s1 also serve as unseen faces in
evaluations; these means are all that the preparation has seen of them.
"""
OUTER_LIPS = [61, 146, 91, 181, 84, 17, 314, 405, 321, 375, 291, 409, 270, 269, 267, 0, 37, 39, 40, 185]

LANDMARKS = FaceGeometry(
    stable=range(len(REFERENCE)),
    reference=np.array(list(REFERENCE.values())),
    mouth=range(len(REFERENCE), len(REFERENCE) + len(OUTER_LIPS)),
    mouth_offset=np.zeros(2),
)
LANDMARK_STRIDE = 2
"""Every second frame is searched, since crops are smoothed over 12. On clips of seven GRID speakers that moved no
crop's centre by more than a quarter of a pixel, for half of the time (experiments/006-mouth-crops)."""


def detect_landmarks(
    frames: Iterable[np.ndarray], fps: float, face_model: Path, max_faces: int
) -> Iterator[list[np.ndarray]]:
    """Per frame the points of at most ``max_faces`` faces in pixels, float64 [29, 2] (x, y) each.

    The points: those of ``REFERENCE``, the outer lips, and two corners of the box around all landmarks. Of the 478
    landmarks no more are kept, for the sake of long videos.

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
    ignore_profiling_signal()
    with quiet_stderr():
        try:
            landmarker = vision.FaceLandmarker.create_from_options(options)
        except (RuntimeError, ValueError, OSError) as error:
            raise ValueError(f"{face_model} is no face model that MediaPipe can use: {error}") from error
    try:
        for index, pixels in enumerate(frames):
            image = mediapipe.Image(mediapipe.ImageFormat.SRGB, np.ascontiguousarray(pixels))
            # At its first frames it says how it was built.
            with quiet_stderr(index < 2):
                found = landmarker.detect_for_video(image, round(1000 * index / fps)).face_landmarks
            size = pixels.shape[1], pixels.shape[0]
            yield [_points(np.array([(point.x, point.y) for point in face]) * size) for face in found]
    finally:
        with quiet_stderr():
            landmarker.close()


def _points(landmarks: np.ndarray) -> np.ndarray:
    corners = np.stack([landmarks.min(axis=0), landmarks.max(axis=0)])
    return np.concatenate([landmarks[[*REFERENCE, *OUTER_LIPS]], corners])
