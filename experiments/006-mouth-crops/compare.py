"""How far apart the crops of the two face finders are, and what searching only some frames changes.

    python experiments/006-mouth-crops/compare.py GRID UNSEEN OUTPUT [--clips 60]

GRID: a GRID corpus; UNSEEN: a folder of other speakers with a transcripts.tsv. OUTPUT gets comparison.json, a table and
a picture. The reference is the landmarker on every frame.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from rich.progress import track as progress

from data_prep.corpora.folder import read_folder
from data_prep.corpora.grid import read_grid
from omni_avsr.files import write_atomically
from omni_avsr.media import FRAME_RATE, iter_video
from omni_avsr.mouth.crops import CROP_SIZE, FaceGeometry, crop_transforms, mouth_crops
from omni_avsr.mouth.face_model import find_face_model
from omni_avsr.mouth.keypoints import KEYPOINT_STRIDE, KEYPOINTS, detect_keypoints
from omni_avsr.mouth.landmarks import LANDMARK_STRIDE, LANDMARKS, detect_landmarks
from omni_avsr.provenance import command_line, commit, today

REFERENCE = "landmarker, every frame"
WAYS: dict[str, tuple[FaceGeometry, int]] = {
    REFERENCE: (LANDMARKS, 1),
    f"landmarker, every {LANDMARK_STRIDE} frames": (LANDMARKS, LANDMARK_STRIDE),
    "detector, every frame": (KEYPOINTS, 1),
    f"detector, every {KEYPOINT_STRIDE} frames": (KEYPOINTS, KEYPOINT_STRIDE),
}
NUM_SHOWN = 8
"""Clips in the picture, each of another speaker as far as there are so many."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("grid", type=Path)
    parser.add_argument("unseen", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--clips", type=int, default=60, help="of GRID, evenly spread (60)")
    options = parser.parse_args()
    grid = [clip.media for clip in read_grid(options.grid)]
    unseen = [clip.media for clip in read_folder(options.unseen)]
    groups = {"grid": grid[:: max(1, len(grid) // options.clips)], "grid_unseen": unseen}
    face_model = find_face_model()
    results: dict[str, Any] = {}
    shown = []
    for group, files in groups.items():
        differences: dict[str, list[np.ndarray]] = {name: [] for name in WAYS}
        for file in progress(files, group):
            transforms = dict(find_transforms(file, face_model))
            for name, found in transforms.items():
                differences[name].append(difference(found, transforms[REFERENCE]))
            if group == "grid_unseen" or len(shown) < NUM_SHOWN - len(unseen):
                shown.append(picture_row(file, transforms))
        results[group] = {"clips": len(files)} | {
            name: summary(np.concatenate(parts)) for name, parts in differences.items() if name != REFERENCE
        }
    origin = {"commit": commit(), "date": today(), "command": command_line()}
    options.output.mkdir(parents=True, exist_ok=True)
    write_atomically(options.output / "comparison.json", json.dumps({**origin, **results}, indent=2) + "\n")
    write_atomically(options.output / "comparison.md", table(results, origin))
    written, picture = cv2.imencode(".png", np.concatenate(shown))
    assert written
    write_atomically(options.output / "crops.png", picture.tobytes())


def find_transforms(file: Path, face_model: Path) -> Iterator[tuple[str, np.ndarray]]:
    """For each way the transforms from image to crop, [T, 2, 3]."""
    num_frames = sum(1 for _ in iter_video(file, grey=True))
    for name, (geometry, stride) in WAYS.items():
        frames = iter_video(file, every=stride)
        if geometry is LANDMARKS:
            found = detect_landmarks(frames, FRAME_RATE / stride, face_model, max_faces=1)
        else:
            found = detect_keypoints(frames, face_model)
        faces: list[np.ndarray | None] = [None] * num_frames
        faces[::stride] = [each[0] if each else None for each in found]
        yield name, crop_transforms(faces, geometry)


def difference(found: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """[T, 3]: pixels of the source between the crops' centres, relative size of what a crop shows, degrees of tilt."""
    size = scale(reference) / scale(found)
    tilt = np.degrees(angle(found) - angle(reference))
    return np.stack([np.linalg.norm(centre(found) - centre(reference), axis=1), size - 1, tilt], axis=1)


def centre(transforms: np.ndarray) -> np.ndarray:
    """[T, 2], the crop's centre in the source."""
    middle = np.full(2, (CROP_SIZE - 1) / 2)
    return np.linalg.solve(transforms[:, :, :2], (middle - transforms[:, :, 2])[..., None])[..., 0]


def scale(transforms: np.ndarray) -> np.ndarray:
    return np.sqrt(np.linalg.det(transforms[:, :, :2]))


def angle(transforms: np.ndarray) -> np.ndarray:
    return np.arctan2(transforms[:, 1, 0], transforms[:, 0, 0])


def summary(differences: np.ndarray) -> dict[str, float]:
    pixels, size, tilt = np.abs(differences).T
    return {
        "centre_mean": round(float(pixels.mean()), 2),
        "centre_p95": round(float(np.quantile(pixels, 0.95)), 2),
        "centre_max": round(float(pixels.max()), 2),
        "size_mean": round(float(size.mean()), 4),
        "tilt_mean": round(float(tilt.mean()), 2),
    }


def picture_row(file: Path, transforms: dict[str, np.ndarray]) -> np.ndarray:
    """The middle frame's crops by each way, side by side, enlarged twice."""
    frames = list(iter_video(file, grey=True))
    middle = len(frames) // 2
    crops = [mouth_crops([frames[middle]], found[middle : middle + 1])[0] for found in transforms.values()]
    return cv2.resize(np.concatenate(crops, axis=1), None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC)


def table(results: dict[str, Any], origin: dict[str, str]) -> str:
    lines = [
        f"Against the {REFERENCE}; centres in pixels of the source.",
        "",
        "| clips | faces by | centre, mean | 95 % within | furthest | size | tilt |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for group, ways in results.items():
        for name, row in ways.items():
            if name != "clips":
                cells = (f"{row['centre_mean']:.2f}", f"{row['centre_p95']:.2f}", f"{row['centre_max']:.2f}")
                others = (f"{row['size_mean']:.1%}", f"{row['tilt_mean']:.1f}°")
                lines.append(f"| {group} ({ways['clips']}) | {name} | {' | '.join((*cells, *others))} |")
    return "\n".join([*lines, "", f"{origin['date']}, commit {origin['commit']}: `{origin['command']}`", ""])


if __name__ == "__main__":
    main()
