"""Mouth crops from the points of a face: upright, of one scale, the mouth in the middle.

The framing is close to that of auto_avsr, whose preparation Omni-AVSR follows: a 96x96 grey crop that shows lips,
chin and part of the cheeks, with the head's tilt, size and movement taken out. The landmarks there come from another
detector, and its mean face is another one (``landmarks.REFERENCE``).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

CROP_SIZE = 96
SMOOTHING_WINDOW = 12

# A closed mouth is 0.54 outer-eye distances wide in the mean, which makes it 43 % of the crop's width.
_EYE_DISTANCE_PER_CROP = 0.79


@dataclass(frozen=True)
class FaceGeometry:
    """Which of a detector's points place a crop, and where they lie in the reference face.

    In outer-eye distances, x to the image's right, y down.

    stable: indices of points that speech does not move, or little.
    reference: [len(stable), 2], where they lie.
    mouth: indices of points whose mean is the mouth.
    mouth_offset: [2], where that mean lies from the middle of the outer lips.
    """

    stable: Sequence[int]
    reference: np.ndarray
    mouth: Sequence[int]
    mouth_offset: np.ndarray


def mouth_crops(frames: Iterable[np.ndarray], transforms: np.ndarray) -> np.ndarray:
    """The crops that ``crop_transforms`` places in frames: uint8 [T, 96, 96] of grey [H, W], with [.., 3] of colour.

    Where faces were searched in every nth frame only, there may be up to n - 1 more transforms than frames. ValueError
    if there are fewer transforms than frames.
    """
    # Shrinking without a low-pass filter first would fold fine texture of large faces into the crop.
    shrink = 1 / float(np.median(np.sqrt(np.linalg.det(transforms[:, :, :2]))))
    sigma = 0.5 * np.sqrt(shrink**2 - 1) if shrink > 1 else 0.0
    crops = []
    for index, pixels in enumerate(frames):
        if index == len(transforms):
            raise ValueError(f"there are more than the {len(transforms)} frames that were searched for faces")
        if sigma > 0.3:
            pixels = cv2.GaussianBlur(pixels, (0, 0), sigma)
        crops.append(
            cv2.warpAffine(
                pixels,
                transforms[index],
                (CROP_SIZE, CROP_SIZE),
                flags=cv2.INTER_LINEAR,
                borderMode=cv2.BORDER_REPLICATE,
            )
        )
    return np.stack(crops)


def crop_transforms(faces: Sequence[np.ndarray | None], geometry: FaceGeometry) -> np.ndarray:
    """Per frame the similarity transform from image to crop pixels, float64 [T, 2, 3].

    Rotation and scale come from the geometry's stable points, the translation puts its mouth at the crop's centre. All
    of it from points smoothed over about 12 frames, so that neither the detector's jitter nor the mouth's own movement
    shakes the crop. Frames without a face (None) take points interpolated between their neighbours.

    Args:
        faces: per frame the points of the face, [N, 2] in pixels; what they are says ``geometry``.

    Raises:
        ValueError: no frame has a face.
    """
    points = smooth(fill_gaps(faces))
    linear = _similarity(points[:, geometry.stable], geometry.reference * _EYE_DISTANCE_PER_CROP * CROP_SIZE)
    centre = (CROP_SIZE - 1) / 2 + geometry.mouth_offset * _EYE_DISTANCE_PER_CROP * CROP_SIZE
    translation = centre - np.einsum("tij,tj->ti", linear, points[:, geometry.mouth].mean(axis=1))
    return np.concatenate([linear, translation[:, :, None]], axis=2)


def fill_gaps(landmarks: Sequence[np.ndarray | None]) -> np.ndarray:
    """[T, N, 2] landmarks with missing frames interpolated linearly; before the first and after the last face they
    stand still. ValueError when there is no face at all."""
    found = [index for index, points in enumerate(landmarks) if points is not None]
    if not found:
        raise ValueError(f"no face in any of {len(landmarks)} frames")
    known = np.stack([points for points in landmarks if points is not None])
    flat = known.reshape(len(known), -1)
    times = np.arange(len(landmarks))
    filled = np.stack([np.interp(times, found, column) for column in flat.T], axis=1)
    return filled.reshape(len(landmarks), *known.shape[1:])


def smooth(points: np.ndarray, window: int = SMOOTHING_WINDOW) -> np.ndarray:
    """Centred moving average over time of [T, ...], reaching ``window // 2`` frames to both sides.

    Near the ends the reach shrinks on both sides alike, so steady motion passes unchanged everywhere.
    """
    count = len(points)
    totals = np.concatenate([np.zeros_like(points[:1]), np.cumsum(points, axis=0)])
    index = np.arange(count)
    reach = np.minimum(window // 2, np.minimum(index, count - 1 - index))
    widths = (2 * reach + 1).reshape(-1, *[1] * (points.ndim - 1))
    return (totals[index + reach + 1] - totals[index - reach]) / widths


def quality(faces: Sequence[np.ndarray | None], num_searched: int) -> dict[str, float]:
    """How far the crops can be trusted: ``detected``, the share of the searched frames with a face, and ``face_size``,
    the mean over them of the square root of the area that the face's points span, in pixels of the source."""
    sizes = [float(np.sqrt(np.prod(np.ptp(points, axis=0)))) for points in faces if points is not None]
    return {"detected": round(len(sizes) / num_searched, 4), "face_size": round(sum(sizes) / len(sizes), 1)}


def _similarity(points: np.ndarray, target: np.ndarray) -> np.ndarray:
    """[T, 2, 2] rotation times scale that brings ``points`` [T, N, 2] closest to ``target`` [N, 2] by least squares.

    In the plane such a matrix is [[a, -b], [b, a]], which makes the problem linear (Umeyama, 1991, without the SVD).
    """
    centred = points - points.mean(axis=1, keepdims=True)
    goal = target - target.mean(axis=0)
    energy = (centred**2).sum(axis=(1, 2))
    a = np.einsum("tni,ni->t", centred, goal) / energy
    b = (centred[..., 0] @ goal[:, 1] - centred[..., 1] @ goal[:, 0]) / energy
    return np.stack([np.stack([a, -b], axis=1), np.stack([b, a], axis=1)], axis=1)
