"""Which detections of several frames are one face: boxes that overlap from frame to frame."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

MIN_OVERLAP = 0.3
"""Intersection over union from which two boxes are taken for the same face."""
MAX_GAP = 25
"""Frames (one second) for which a face may be lost and still be the same one."""


def face_tracks(detections: Sequence[Sequence[np.ndarray]]) -> list[list[np.ndarray | None]]:
    """Follow each face through a clip.

    Args:
        detections: per frame the landmarks of each face, [N, 2] in pixels.

    Returns:
        Per face its landmarks in every frame, None where it was not found; the faces that are seen longest and largest
        first (by the sum of their boxes' areas).
    """
    tracks: list[dict[int, np.ndarray]] = []
    lasts: list[int] = []  # the frame in which each track was last seen
    for frame, faces in enumerate(detections):
        free = {index for index, last in enumerate(lasts) if frame - last <= MAX_GAP}
        pairs = sorted(
            ((_overlap(tracks[index][lasts[index]], face), index, place)
             for index in free for place, face in enumerate(faces)),
            reverse=True,
        )  # fmt: skip
        placed: set[int] = set()
        for overlap, index, place in pairs:
            if overlap >= MIN_OVERLAP and index in free and place not in placed:
                tracks[index][frame] = faces[place]
                lasts[index] = frame
                free.remove(index)
                placed.add(place)
        new = [{frame: face} for place, face in enumerate(faces) if place not in placed]
        tracks += new
        lasts += [frame] * len(new)
    tracks.sort(key=lambda track: -sum(_area(_box(points)) for points in track.values()))
    return [[track.get(frame) for frame in range(len(detections))] for track in tracks]


def _box(points: np.ndarray) -> np.ndarray:
    return np.concatenate([points.min(axis=0), points.max(axis=0)])


def _area(box: np.ndarray) -> float:
    return float(np.prod(np.maximum(box[2:] - box[:2], 0.0)))


def _overlap(first: np.ndarray, second: np.ndarray) -> float:
    """Intersection over union of the boxes around two sets of points."""
    a, b = _box(first), _box(second)
    shared = _area(np.concatenate([np.maximum(a[:2], b[:2]), np.minimum(a[2:], b[2:])]))
    total = _area(a) + _area(b) - shared
    return shared / total if total > 0 else 0.0
