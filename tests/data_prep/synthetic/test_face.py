"""Drawn mouths: what moves with speech, and what differs between faces and clips."""

from dataclasses import replace

import numpy as np

from data_prep.synthetic.face import Face, Motion, draw_face, draw_motion, render
from data_prep.synthetic.visemes import NUM_MEASURES

STILL = Motion(0.0, 0.0, 0.0, np.zeros((4, 2)), 0.0)
FACE = Face(150, 110, 20, 1.0, 1.0, 1.0, 0.0, (0.0, 0.0), 5)


def shown(face: Face, motion: Motion = STILL, seed: int = 0, **measures: float) -> np.ndarray:
    names = ("opening", "wide", "rounded", "tucked", "teeth", "tongue")
    track = np.array([[measures.get(name, 0.0) for name in names]] * 3)
    assert track.shape[1] == NUM_MEASURES
    return render(face, track, motion, np.arange(3) / 25, np.random.default_rng(seed))


def dark(picture: np.ndarray) -> int:
    return int((picture < 60).sum())


def test_crops_are_grey_pictures_of_the_preparations_size() -> None:
    crops = shown(FACE)
    assert crops.shape == (3, 96, 96)
    assert crops.dtype == np.uint8


def test_an_open_mouth_shows_its_cavity_and_teeth_cover_it() -> None:
    closed, open_ = shown(FACE)[0], shown(FACE, opening=0.9)[0]
    assert dark(open_) > dark(closed) + 200
    assert dark(shown(FACE, opening=0.9, teeth=1.0)[0]) < dark(open_) - 50
    assert dark(shown(FACE, opening=0.9, tongue=1.0)[0]) < dark(open_) - 50


def test_lips_spread_and_purse_around_the_middle() -> None:
    def width(crops: np.ndarray) -> int:
        columns = np.flatnonzero((crops[0, 40:56] < 125).any(axis=0))
        return int(columns.max() - columns.min())

    middle, spread, pursed = (
        width(shown(FACE)),
        width(shown(FACE, wide=1.0)),
        width(shown(FACE, wide=-0.9, rounded=1.0)),
    )
    assert spread > middle + 5
    assert pursed < middle - 8
    assert 35 < middle < 48  # close to 43 % of the width, as in crops of real faces


def test_faces_and_motion_differ_and_are_reproducible() -> None:
    faces = [draw_face(np.random.default_rng(seed)) for seed in range(20)]
    assert faces == [draw_face(np.random.default_rng(seed)) for seed in range(20)]
    assert len({round(face.skin) for face in faces}) > 10
    pictures = [shown(face)[0].astype(float) for face in faces[:5]]
    assert min(np.abs(first - second).mean() for first in pictures for second in pictures if first is not second) > 3


def test_motion_moves_the_head_and_noise_differs_from_frame_to_frame() -> None:
    random = np.random.default_rng(1)
    motion = replace(draw_motion(random), shift=2.0, noise=0.0)
    track, times = np.zeros((60, NUM_MEASURES)), np.arange(60) / 25
    moving = render(FACE, track, motion, times, random).astype(float)
    assert np.abs(moving[0] - moving[30]).mean() > 0.5
    noisy = shown(FACE, replace(STILL, noise=3.0)).astype(float)
    assert 1 < np.abs(noisy[0] - noisy[1]).mean() < 10
    assert np.array_equal(shown(FACE)[0], shown(FACE)[1])
