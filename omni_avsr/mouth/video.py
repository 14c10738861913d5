"""A raw video file to mouth crops."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from omni_avsr.media import FRAME_RATE, iter_video
from omni_avsr.mouth.crops import mouth_crops, quality
from omni_avsr.mouth.face import detect_landmarks


def crop_video(path: Path, face_model: Path) -> tuple[np.ndarray, dict[str, float]]:
    """Mouth crops uint8 [T, 96, 96] at 25 fps of the face in a video, and their quality.

    Raises:
        ValueError: naming the file, when it cannot be read or shows no face.
    """
    landmarks = detect_landmarks(iter_video(path), FRAME_RATE, face_model)
    try:
        # A second decoding is cheaper than holding every full frame of a long clip.
        return mouth_crops(iter_video(path, grey=True), landmarks), quality(landmarks)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
