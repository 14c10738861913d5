"""Faces followed from frame to frame."""

import numpy as np

from omni_avsr.mouth.tracks import MAX_GAP, face_tracks


def face(x: float, y: float, size: float) -> np.ndarray:
    """Landmarks whose box has this upper left corner and side."""
    return np.array([(x, y), (x + size, y + size), (x + size / 2, y + size / 3)])


def corners(track: list[np.ndarray | None]) -> list[float | None]:
    return [None if points is None else float(points[0, 0]) for points in track]


def test_two_moving_faces_keep_their_tracks_whatever_the_order_of_the_detections() -> None:
    frames = [[face(10 + t, 0, 40), face(200 - t, 0, 60)][:: 1 if t % 2 else -1] for t in range(20)]
    small, large = [10.0 + t for t in range(20)], [200.0 - t for t in range(20)]
    assert [corners(track) for track in face_tracks(frames)] == [large, small]


def test_a_short_loss_is_bridged_and_a_long_one_is_another_face() -> None:
    there = [face(0, 0, 50)]
    short = face_tracks([there, *[[]] * (MAX_GAP - 1), there])
    assert [corners(track) for track in short] == [[0.0, *[None] * (MAX_GAP - 1), 0.0]]
    assert len(face_tracks([there, *[[]] * MAX_GAP, there])) == 2


def test_the_face_that_stays_comes_before_a_larger_one_that_passes() -> None:
    frames = [[face(0, 0, 50), face(300, 0, 80)] if t < 3 else [face(0, 0, 50)] for t in range(30)]
    stays, passes = face_tracks(frames)
    assert corners(stays) == [0.0] * 30
    assert corners(passes) == [300.0] * 3 + [None] * 27


def test_a_jump_is_another_face() -> None:
    tracks = face_tracks([[face(0, 0, 50)], [face(100, 0, 50)]])
    assert sorted(map(str, map(corners, tracks))) == ["[0.0, None]", "[None, 100.0]"]


def test_without_detections_there_are_no_faces() -> None:
    assert face_tracks([[], []]) == []
