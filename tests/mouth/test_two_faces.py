"""Two people in one real picture: each is found, followed and cropped as if alone."""

from pathlib import Path

import numpy as np
import pytest
from helpers_checkpoint import write_muxed

from omni_avsr.media import NoFaceError, read_video
from omni_avsr.mouth.video import crop_video

FRAMES = 20


@pytest.mark.slow
def test_each_of_two_people_is_cropped_as_if_alone(shared: Path, tmp_path: Path) -> None:
    """The left one is shown larger, so that it is the first."""
    face_model = shared / "models" / "face_landmarker.task"
    clips = sorted((shared / "data" / "grid_unseen").glob("*.mp4"))
    left, right = (read_video(clip)[:FRAMES] for clip in (clips[0], clips[3]))
    smaller = np.pad(right[:, ::2, ::2], ((0, 0), (0, left.shape[1] - right.shape[1] // 2), (0, 0), (0, 0)))
    silence = np.zeros(FRAMES * 640)
    pictures = {"left": left, "right": smaller, "both": np.concatenate([left, smaller], axis=2)}
    for name, frames in pictures.items():
        write_muxed(tmp_path / f"{name}.mkv", silence, frames)
    alone = [crop_video(tmp_path / f"{name}.mkv", face_model)[0] for name in ("left", "right")]
    both = [crop_video(tmp_path / "both.mkv", face_model, face)[0] for face in (0, 1)]
    for person in (0, 1):
        likeness = [np.corrcoef(alone[other].ravel(), both[person].ravel())[0, 1] for other in (0, 1)]
        assert likeness[person] > 0.9
        assert likeness[person] > likeness[1 - person] + 0.1
    with pytest.raises(NoFaceError, match=r"both\.mkv: there is no face 2; 2 were found, counted from 0"):
        crop_video(tmp_path / "both.mkv", face_model, 2)


def test_a_file_that_is_no_face_model_is_named(tmp_path: Path) -> None:
    (tmp_path / "face.task").write_bytes(b"no model at all")
    write_muxed(tmp_path / "clip.mkv", np.zeros(640), np.zeros((1, 120, 160, 3), np.uint8))
    with pytest.raises(ValueError, match=r"face\.task is no face model that MediaPipe can use"):
        crop_video(tmp_path / "clip.mkv", tmp_path / "face.task")
