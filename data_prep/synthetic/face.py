"""A drawn mouth region, as grey 96 x 96 crops like those that the preparation cuts from real faces.

What varies between faces, light and motion is what lip reading must not depend on; what moves with the phonemes is all
that it can read.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from omni_avsr.mouth.crops import CROP_SIZE

CANVAS = 136
"""Side of the picture that is drawn and then moved: larger than a crop, so that motion never shows its border."""
_HALF_WIDTH = 20.5
_SHIFT = 4
_ACROSS = np.linspace(-1, 1, 33)
_BOW = 1 - 0.25 * np.exp(-((_ACROSS / 0.18) ** 2))


@dataclass(frozen=True)
class Face:
    """One speaker's looks. Brightness in grey levels, sizes relative to an average face (1).

    skin, lips, cavity: brightness. light: (x, y) slope of the brightness across the crop. beard: 0 to 1.
    """

    skin: float
    lips: float
    cavity: float
    width: float
    thickness: float
    jaw: float
    beard: float
    light: tuple[float, float]
    texture: int


@dataclass(frozen=True)
class Motion:
    """How the head moves in one clip: slow swings of the given sizes (pixels, degrees, relative).

    swings: [4, 2], rate in Hz and phase to the right, down, in turn and in zoom. noise: the camera's, in grey levels.
    """

    shift: float
    turn: float
    zoom: float
    swings: np.ndarray
    noise: float


def draw_face(random: np.random.Generator) -> Face:
    skin = float(random.uniform(95, 205))
    return Face(
        skin=skin,
        lips=skin - float(random.uniform(18, 55)),
        cavity=float(random.uniform(10, 45)),
        width=float(random.uniform(0.88, 1.12)),
        thickness=float(random.uniform(0.7, 1.35)),
        jaw=float(random.uniform(0.8, 1.2)),
        beard=float(max(0.0, random.uniform(-1.0, 0.8))),
        light=(float(random.uniform(-25, 25)), float(random.uniform(-20, 20))),
        texture=int(random.integers(2**31)),
    )


def draw_motion(random: np.random.Generator) -> Motion:
    return Motion(
        shift=float(random.uniform(0.3, 2.0)),
        turn=float(random.uniform(0.0, 3.0)),
        zoom=float(random.uniform(0.0, 0.04)),
        swings=np.stack([random.uniform(0.1, 0.7, 4), random.uniform(0, 2 * np.pi, 4)], axis=1),
        noise=float(random.uniform(0.5, 4.0)),
    )


def render(face: Face, track: np.ndarray, motion: Motion, times: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Crops uint8 [T, 96, 96] of a face whose mouth moves as ``track`` [T, measures] says at ``times`` [T]."""
    skin = _skin(face)
    crops = np.empty((len(times), CROP_SIZE, CROP_SIZE), np.uint8)
    for index, (measures, time) in enumerate(zip(track, times, strict=True)):
        canvas = skin.copy()
        _draw_mouth(canvas, face, measures)
        moved = cv2.warpAffine(canvas, _transform(motion, time), (CROP_SIZE, CROP_SIZE), flags=cv2.INTER_LINEAR)
        noise = np.float32(motion.noise) * random.standard_normal(moved.shape, np.float32)
        crops[index] = (moved + noise).clip(0, 255).astype(np.uint8)
    return crops


def _skin(face: Face) -> np.ndarray:
    """The face without a mouth: skin with its light, its grain, the shadow of the nose and stubble."""
    random = np.random.default_rng(face.texture)
    y, x = np.mgrid[0:CANVAS, 0:CANVAS].astype(np.float32) / (CANVAS - 1) - 0.5
    picture = face.skin + 2 * face.light[0] * x + 2 * face.light[1] * y
    picture -= 30 * (x / 0.5) ** 4  # cheeks turn away from the camera
    picture -= 35 * np.exp(-(((x / 0.1) ** 2) + ((y + 0.36) / 0.06) ** 2))
    coarse = cv2.resize(
        random.standard_normal((12, 12)).astype(np.float32), (CANVAS, CANVAS), interpolation=cv2.INTER_CUBIC
    )
    grain = cv2.GaussianBlur(random.standard_normal((CANVAS, CANVAS)).astype(np.float32), (0, 0), 1.0)
    below = 1 / (1 + np.exp(-(np.hypot(x, y * 0.9) - 0.2) / 0.03))
    stubble = cv2.GaussianBlur((random.random((CANVAS, CANVAS)) < 0.35).astype(np.float32), (0, 0), 0.8)
    picture += 5 * coarse + 6 * grain - face.beard * below * (20 + 60 * stubble)
    return picture.astype(np.float32)


def _draw_mouth(canvas: np.ndarray, face: Face, measures: np.ndarray) -> None:
    opening, wide, rounded, tucked, teeth, tongue = (float(value) for value in measures)
    middle = (CANVAS - 1) / 2
    half = _HALF_WIDTH * face.width * (1 + 0.22 * wide - 0.18 * rounded)
    gap = 26 * face.jaw * opening
    x = middle + half * _ACROSS
    arch = 1 - _ACROSS**2
    upper = middle - 0.3 * gap * arch
    lower = middle + (0.7 * gap * arch**0.8) - 2.5 * tucked * arch
    swell = face.thickness * (1 + 0.35 * rounded)
    top = upper - 5.0 * swell * arch**0.7 * _BOW
    bottom = lower + 7.0 * swell * (1 - 0.65 * tucked) * arch**0.5
    # The fold above the chin goes down with the jaw.
    chin = np.zeros_like(canvas)
    cv2.ellipse(chin, (round(middle), round(float(bottom.max()) + 7)), (13, 3), 0, 0, 360, 1.0, -1)
    canvas -= 22 * cv2.GaussianBlur(chin, (0, 0), 3.0)
    outer, inner = _mask(x, top, bottom), _mask(x, upper, lower)
    _paint(canvas, outer, face.lips - 12 * (1 - _mask(x, upper - 1, bottom)))  # the upper lip lies in the shade
    _paint(canvas, inner, np.float32(face.cavity))
    seen = _mask(x, upper, np.minimum(lower, upper + 2 + 5 * teeth))
    _paint(canvas, inner * seen * min(1.0, 1.4 * teeth), np.float32(min(235.0, face.skin + 45)))
    up = np.maximum(upper, lower - (2 + 0.55 * gap) * arch)
    _paint(canvas, inner * _mask(x, up, lower) * min(1.0, tongue), np.float32(face.lips + 8))
    line = np.stack([x, (upper + lower) / 2], axis=1)
    if gap < 2.5:  # closed lips meet in a dark line
        cv2.polylines(canvas, [_fixed(line)], False, face.lips - 35, 1, cv2.LINE_AA, _SHIFT)


def _mask(x: np.ndarray, top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    """[CANVAS, CANVAS] float32, 1 between two curves, smooth at the edge."""
    outline = np.concatenate([np.stack([x, top], 1), np.stack([x, np.maximum(top, bottom)], 1)[::-1]])
    mask = np.zeros((CANVAS, CANVAS), np.uint8)
    cv2.fillPoly(mask, [_fixed(outline)], 255, cv2.LINE_AA, _SHIFT)
    return mask.astype(np.float32) / 255


def _paint(canvas: np.ndarray, mask: np.ndarray, level: np.ndarray | np.float32) -> None:
    canvas += mask * (level - canvas)


def _fixed(points: np.ndarray) -> np.ndarray:
    """Points [N, 2] as OpenCV takes fractions of pixels."""
    return np.round(points * 2**_SHIFT).astype(np.int32)


def _transform(motion: Motion, time: float) -> np.ndarray:
    """The affine transform from the canvas to a crop, of the head's place at ``time``."""
    right, down, turn, zoom = np.sin(2 * np.pi * motion.swings[:, 0] * time + motion.swings[:, 1])
    middle = (CANVAS - 1) / 2
    transform = cv2.getRotationMatrix2D((middle, middle), motion.turn * turn, 1 + motion.zoom * zoom)
    offset = (CROP_SIZE - CANVAS) / 2
    transform[:, 2] += offset + motion.shift * right, offset + motion.shift * down
    return transform
