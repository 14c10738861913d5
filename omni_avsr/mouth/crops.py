"""Mouth crops from face landmarks: upright, of one scale, the mouth in the middle.

The framing is close to that of auto_avsr, whose preparation Omni-AVSR follows: a 96x96 grey crop that shows lips,
chin and part of the cheeks, with the head's tilt, size and movement taken out. The landmarks there come from another
detector, and its mean face is another one; where the reference points here come from stands at ``_REFERENCE``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import cv2
import numpy as np

CROP_SIZE = 96
SMOOTHING_WINDOW = 12

_REFERENCE = {
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
_STABLE = list(_REFERENCE)
_STABLE_POINTS = np.array(list(_REFERENCE.values()))
_OUTER_LIPS = [61, 146, 91, 181, 84, 17, 314, 405, 321, 375, 291, 409, 270, 269, 267, 0, 37, 39, 40, 185]

# A closed mouth is 0.54 outer-eye distances wide in the mean, which makes it 43 % of the crop's width.
_EYE_DISTANCE_PER_CROP = 0.79


def mouth_crops(frames: Iterable[np.ndarray], landmarks: Sequence[np.ndarray | None]) -> np.ndarray:
    """Aligned mouth crops, uint8 [T, 96, 96], of grey frames (uint8 [H, W]) and their landmarks ([N, 2] or None).

    Frames without a face take landmarks interpolated between their neighbours. ValueError if no frame has a face or
    the numbers differ.
    """
    transforms = crop_transforms(landmarks)
    # Shrinking without a low-pass filter first would fold fine texture of large faces into the crop.
    shrink = 1 / float(np.median(np.sqrt(np.linalg.det(transforms[:, :, :2]))))
    sigma = 0.5 * np.sqrt(shrink**2 - 1) if shrink > 1 else 0.0
    crops = []
    for pixels, transform in zip(frames, transforms, strict=True):
        if sigma > 0.3:
            pixels = cv2.GaussianBlur(pixels, (0, 0), sigma)
        crops.append(
            cv2.warpAffine(
                pixels, transform, (CROP_SIZE, CROP_SIZE), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
            )
        )
    return np.stack(crops)


def crop_transforms(landmarks: Sequence[np.ndarray | None]) -> np.ndarray:
    """Per frame the similarity transform from image to crop pixels, float64 [T, 2, 3].

    Rotation and scale come from eyes and nose against the reference face, the translation puts the middle of the
    outer lips at the crop's centre. All of it from landmarks smoothed over about 12 frames, so that neither the
    detector's jitter nor the mouth's own movement shakes the crop.
    """
    points = smooth(fill_gaps(landmarks)[:, _STABLE + _OUTER_LIPS])
    stable, lips = points[:, : len(_STABLE)], points[:, len(_STABLE) :]
    linear = _similarity(stable, _STABLE_POINTS * _EYE_DISTANCE_PER_CROP * CROP_SIZE)
    centre = (CROP_SIZE - 1) / 2
    translation = centre - np.einsum("tij,tj->ti", linear, lips.mean(axis=1))
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


def quality(landmarks: Sequence[np.ndarray | None]) -> dict[str, float]:
    """How far the crops can be trusted: ``detected``, the share of frames with a face, and ``face_size``, the mean
    over them of the square root of the landmarks' bounding box area, in pixels of the source."""
    sizes = [float(np.sqrt(np.prod(np.ptp(points, axis=0)))) for points in landmarks if points is not None]
    return {"detected": round(len(sizes) / len(landmarks), 4), "face_size": round(sum(sizes) / len(sizes), 1)}


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
