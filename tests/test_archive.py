"""Paths that lead into tar archives."""

import tarfile
from pathlib import Path

import numpy as np
import pytest

from omni_avsr import archive
from omni_avsr.media import MediaError, read_audio, read_video, write_audio, write_video


@pytest.fixture
def tar(tmp_path: Path) -> Path:
    write_audio(tmp_path / "a.flac", np.linspace(-0.5, 0.5, 1600).astype(np.float32))
    write_video(tmp_path / "a.mp4", np.random.default_rng(0).integers(0, 256, (3, 16, 16), np.uint8), lossless=True)
    with tarfile.open(tmp_path / "clips.tar", "w") as stream:
        for name in ("a.flac", "a.mp4"):
            stream.add(tmp_path / name, f"s1/{name}")
    return tmp_path / "clips.tar"


def test_media_inside_a_tar_are_read_as_outside(tar: Path) -> None:
    np.testing.assert_array_equal(read_audio(tar / "s1" / "a.flac"), read_audio(tar.parent / "a.flac"))
    np.testing.assert_array_equal(read_video(tar / "s1" / "a.mp4"), read_video(tar.parent / "a.mp4"))
    assert archive.is_file(tar / "s1" / "a.mp4")
    assert archive.stored_in(tar / "s1" / "a.mp4") == tar
    assert archive.stored_in(tar.parent / "a.mp4") == tar.parent / "a.mp4"


def test_what_is_not_in_the_tar_is_missing(tar: Path) -> None:
    assert not archive.is_file(tar / "s1" / "b.flac")
    assert not archive.is_file(tar / "s1")
    with pytest.raises(MediaError, match=r"b\.flac: no such file"):
        read_audio(tar / "s1" / "b.flac")


def test_a_tar_that_is_written_anew_is_read_anew(tar: Path) -> None:
    assert archive.is_file(tar / "s1" / "a.flac")
    with tarfile.open(tar, "w") as stream:
        stream.add(tar.parent / "a.flac", "other.flac")
    assert not archive.is_file(tar / "s1" / "a.flac")
    assert archive.is_file(tar / "other.flac")


def test_a_broken_tar_holds_nothing(tmp_path: Path) -> None:
    (tmp_path / "broken.tar").write_bytes(b"no tar" * 500)
    assert not archive.is_file(tmp_path / "broken.tar" / "a.flac")
    with pytest.raises(MediaError, match=r"a\.flac: no such file"):
        read_audio(tmp_path / "broken.tar" / "a.flac")
