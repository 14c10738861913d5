"""Mouth crops from drawn faces: the crop does not depend on where, how large and how tilted the face is."""

import cv2
import numpy as np
import pytest

from omni_avsr.mouth.crops import CROP_SIZE, crop_transforms, fill_gaps, mouth_crops, quality, smooth
from omni_avsr.mouth.keypoints import KEYPOINTS
from omni_avsr.mouth.landmarks import LANDMARKS, OUTER_LIPS, REFERENCE

CENTRE = (CROP_SIZE - 1) / 2
STABLE, LIPS = list(LANDMARKS.stable), list(LANDMARKS.mouth)
LEFT_CORNER, RIGHT_CORNER = (len(STABLE) + OUTER_LIPS.index(number) for number in (61, 291))


def face(scale: float = 70.0, degrees: float = 0.0, at: tuple[float, float] = (150.0, 120.0)) -> np.ndarray:
    """[27, 2] landmarks of the reference face with a mouth of 0.54 x 0.2, ``scale`` pixels between the eyes."""
    points = np.zeros((len(STABLE) + len(LIPS), 2))
    points[STABLE] = list(REFERENCE.values())
    angles = np.linspace(np.pi, 3 * np.pi, len(LIPS), endpoint=False)
    points[LIPS] = np.stack([0.27 * np.cos(angles), 0.84 - 0.1 * np.sin(angles)], axis=1)
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return scale * points @ np.array([[cos, -sin], [sin, cos]]).T + at


def crop(image: np.ndarray, points: np.ndarray) -> np.ndarray:
    return mouth_crops([image], crop_transforms([points], LANDMARKS))[0]


def apply(transforms: np.ndarray, points: np.ndarray) -> np.ndarray:
    return points @ transforms[:, :2].T + transforms[:, 2]


def test_the_mouth_is_centred_level_and_of_the_intended_width() -> None:
    for landmarks in (face(), face(scale=210, degrees=-25, at=(400, 333))):
        placed = apply(crop_transforms([landmarks] * 3, LANDMARKS)[1], landmarks)
        np.testing.assert_allclose(placed[LIPS].mean(axis=0), CENTRE, atol=1e-6)
        width = placed[RIGHT_CORNER] - placed[LEFT_CORNER]
        assert width[1] == pytest.approx(0, abs=1e-6)
        assert 0.40 <= width[0] / CROP_SIZE <= 0.45


def test_a_turned_scaled_and_moved_face_gives_the_same_crop() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (300, 300)).astype(np.uint8)
    smooth_noise = cv2.GaussianBlur(noise, (0, 0), 4).astype(float)
    image = (255 * (smooth_noise - smooth_noise.min()) / np.ptp(smooth_noise)).astype(np.uint8)
    move = cv2.getRotationMatrix2D((150.0, 150.0), 20, 1.3)
    moved = cv2.warpAffine(image, move, (400, 400), flags=cv2.INTER_CUBIC)
    still, other = crop(image, face()).astype(int), crop(moved, apply(move, face())).astype(int)
    assert still.std() > 20
    assert np.abs(still - other).mean() < 2


def test_colour_is_cropped_as_grey_is() -> None:
    grey = np.random.default_rng(0).integers(0, 256, (300, 300)).astype(np.uint8)
    np.testing.assert_array_equal(crop(np.stack([grey] * 3, axis=-1), face())[:, :, 1], crop(grey, face()))


def test_keypoints_give_the_crop_that_landmarks_give() -> None:
    """The reference face of the one kind of points and of the other is the same face."""
    mouth = np.array([0.0, 0.84])
    eyes = mouth - KEYPOINTS.reference[2] + KEYPOINTS.mouth_offset
    points = np.zeros((8, 2))
    points[list(KEYPOINTS.stable)] = KEYPOINTS.reference + eyes
    by_keypoints = crop_transforms([70 * points + (150, 120)], KEYPOINTS)
    np.testing.assert_allclose(by_keypoints, crop_transforms([face()], LANDMARKS), atol=1e-6)


def test_transforms_have_no_shear_even_for_a_turned_head() -> None:
    landmarks = face()
    landmarks[STABLE, 0] = 150 + 0.6 * (landmarks[STABLE, 0] - 150)
    linear = crop_transforms([landmarks], LANDMARKS)[0, :, :2]
    np.testing.assert_allclose(linear @ linear.T, np.linalg.det(linear) * np.eye(2), atol=1e-9)


def test_gaps_are_interpolated_and_ends_stand_still() -> None:
    first, last = face(at=(100, 100)), face(at=(140, 60))
    filled = fill_gaps([None, first, None, None, None, last, None])
    np.testing.assert_allclose(filled[3], face(at=(120, 80)))
    np.testing.assert_array_equal(filled[0], first)
    np.testing.assert_array_equal(filled[6], last)


def test_no_face_at_all_is_an_error() -> None:
    with pytest.raises(ValueError, match="no face in any of 2 frames"):
        fill_gaps([None, None])


def test_frames_that_were_not_searched_are_an_error_but_a_few_too_many_transforms_are_none() -> None:
    frames = [np.zeros((300, 300), np.uint8)] * 3
    with pytest.raises(ValueError, match="more than the 2 frames that were searched"):
        mouth_crops(frames, crop_transforms([face()] * 2, LANDMARKS))
    assert len(mouth_crops(frames, crop_transforms([face()] * 5, LANDMARKS))) == 3


def test_smoothing_keeps_steady_motion_and_calms_jitter() -> None:
    line = np.arange(30.0)[:, None] * np.array([1.0, -2.0])
    np.testing.assert_allclose(smooth(line), line)
    jitter = np.random.default_rng(0).normal(size=(300, 2))
    assert smooth(jitter)[12:-12].std() < 0.35


def test_opening_the_mouth_for_a_moment_does_not_shake_the_crop() -> None:
    opened = face()
    below = opened[LIPS, 1] > opened[LEFT_CORNER, 1] + 1
    opened[np.array(LIPS)[below], 1] += 15
    track = [face()] * 10 + [opened] + [face()] * 10
    assert np.ptp(crop_transforms(track, LANDMARKS)[:, :, 2], axis=0).max() < 1


def test_fine_texture_of_a_large_face_is_not_aliased() -> None:
    stripes = np.tile(np.array([0, 255], np.uint8), (1200, 600))
    assert crop(stripes, face(scale=403.7, at=(600, 300))).std() < 8


def test_quality_counts_detected_frames_and_measures_the_face() -> None:
    square = np.zeros((29, 2))
    square[0] = 40, 90
    faces = [square, None, None, None, square, None, square, None]
    assert quality(faces, num_searched=4) == {"detected": 0.75, "face_size": 60.0}
