"""Clips in tars: what WebDataset reads, the same bytes for the same clips, and nothing lost when clips change place."""

import json
import tarfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data_prep.tars import member_key, pack, remove_unused_tars, stored_media
from omni_avsr import archive
from omni_avsr.data.manifest import read_manifest, write_manifest
from omni_avsr.media import read_audio, write_audio, write_video
from omni_avsr.types import Clip


@pytest.fixture
def clips(tmp_path: Path) -> list[Clip]:
    """Three clips, the last of sound alone."""
    made = []
    for number, name in enumerate(["s1/a", "s1/b.1", "s2/c"]):
        audio, video = tmp_path / "audio" / f"{name}.flac", tmp_path / "video" / f"{name}.mp4"
        write_audio(audio, np.full(640, number / 10, np.float32))
        if number < 2:
            write_video(video, np.zeros((1, 16, 16), np.uint8))
        made.append(
            Clip(name, f"text {number}", "train", 0.04, audio, video if number < 2 else None, 1 if number < 2 else 0)
        )
    return made


def scratch(folder: Path) -> Path:
    (folder.parent / "scratch").mkdir(exist_ok=True)
    return folder.parent / "scratch"


def packed(clips: Sequence[Clip], folder: Path, places: Sequence[int] = (0, 0, 1)) -> list[Clip]:
    own = {file for clip in clips for file in (clip.audio, clip.video) if file is not None}
    return pack(
        clips, {clip.id: place for clip, place in zip(clips, places, strict=True)}, own, folder, "000-", scratch(folder)
    )


def test_files_that_are_not_our_own_stay_and_are_not_packed_twice(clips: list[Clip], tmp_path: Path) -> None:
    """Of the second clip, sound and pictures are in one file; of the first, in two of one kind."""
    sound, video = clips[0].audio, clips[1].video
    assert sound is not None
    assert video is not None
    theirs = [replace(clips[0], video=tmp_path / "pictures.flac"), replace(clips[1], audio=video)]
    (tmp_path / "pictures.flac").write_bytes(b"pictures")
    places = {clip.id: 0 for clip in theirs}
    moved = pack(theirs, places, (), tmp_path / "tars", "", scratch(tmp_path / "tars"))
    tar = tmp_path / "tars" / "000000.tar"
    assert [name for name in archive.members(tar) if name.endswith((".mp4", ".flac"))] == [
        "s1/a.audio.flac", "s1/a.flac", "s1/b%2E1.mp4",
    ]  # fmt: skip
    assert moved[1].audio == moved[1].video
    for clip, other in zip(theirs, moved, strict=True):
        for file, packed_file in ((clip.audio, other.audio), (clip.video, other.video)):
            assert file is not None
            assert packed_file is not None
            with archive.open_file(packed_file) as stream:
                assert stream.read() == file.read_bytes()
    time = tar.stat().st_mtime_ns
    assert pack(theirs, places, (), tmp_path / "tars", "", scratch(tmp_path / "tars")) == moved
    assert tar.stat().st_mtime_ns == time
    (tmp_path / "pictures.flac").write_bytes(b"other pictures")
    pack(theirs, places, (), tmp_path / "tars", "", scratch(tmp_path / "tars"))
    with archive.open_file(tar / "s1" / "a.flac") as stream:
        assert stream.read() == b"other pictures"


def test_clips_move_into_tars_and_are_read_there(clips: list[Clip], tmp_path: Path) -> None:
    moved = packed(clips, tmp_path / "tars")
    assert moved[1].video == tmp_path / "tars" / "000-000000.tar" / "s1" / "b%2E1.mp4"
    assert [read_audio(clip.audio).max().round(1) for clip in moved if clip.audio] == [0.0, 0.1, 0.2]
    assert not list(tmp_path.glob("*/s?/*")), "the loose files are gone"
    write_manifest(tmp_path / "manifest.jsonl", moved)
    assert read_manifest(tmp_path / "manifest.jsonl", check_files=True) == moved


def test_a_tar_is_laid_out_as_webdataset_reads_it(clips: list[Clip], tmp_path: Path) -> None:
    """Members of a sample stand together, and have one name up to the first dot behind the folders."""
    packed(clips, tmp_path / "tars")
    with tarfile.open(tmp_path / "tars" / "000-000000.tar") as tar:
        names = tar.getnames()
        assert names == [f"s1/{key}.{kind}" for key in ("a", "b%2E1") for kind in ("flac", "mp4", "txt", "json")]
        line = tar.extractfile(names[-1])
        text = tar.extractfile("s1/a.txt")
        assert line is not None
        assert text is not None
        assert text.read() == b"text 0"
        assert json.load(line) == {
            "id": "s1/b.1", "audio": "s1/b%2E1.flac", "video": "s1/b%2E1.mp4", "frames": 1, "seconds": 0.04,
            "text": "text 1", "split": "train",
        }  # fmt: skip


def test_names_of_samples_are_unambiguous() -> None:
    assert [member_key(id) for id in ("a.b/c", "a/b.c", "a/b%2Ec")] == ["a.b/c", "a/b%2Ec", "a/b%252Ec"]


def test_the_same_clips_give_the_same_bytes_and_packing_again_does_nothing(clips: list[Clip], tmp_path: Path) -> None:
    moved = packed(clips, tmp_path / "tars")
    tar = tmp_path / "tars" / "000-000000.tar"
    data, time = tar.read_bytes(), tar.stat().st_mtime_ns
    assert packed(moved, tmp_path / "tars") == moved
    assert tar.stat().st_mtime_ns == time
    packed(moved, tmp_path / "other")
    assert (tmp_path / "other" / tar.name).read_bytes() == data


def test_a_corrected_text_and_a_clip_made_anew_reach_the_tar(clips: list[Clip], tmp_path: Path) -> None:
    moved = packed(clips, tmp_path / "tars")
    assert clips[0].audio is not None
    write_audio(clips[0].audio, np.full(640, 0.5, np.float32))
    again = packed(
        [replace(moved[0], audio=clips[0].audio), replace(moved[1], text="new"), moved[2]], tmp_path / "tars"
    )
    tar = tmp_path / "tars" / "000-000000.tar"
    assert read_audio(tar / "s1" / "a.flac").max().round(1) == 0.5
    with archive.open_file(tar / "s1" / "b%2E1.txt") as text:
        assert text.read() == b"new"
    assert again[0] == moved[0]


def test_clips_that_change_tars_are_not_lost_and_tars_of_no_use_go(clips: list[Clip], tmp_path: Path) -> None:
    moved = packed(clips, tmp_path / "tars", places=(0, 1, 2))
    swapped = packed(moved, tmp_path / "tars", places=(1, 0, 0))
    assert [archive.stored_in(clip.audio).name for clip in swapped if clip.audio] == [
        "000-000001.tar", "000-000000.tar", "000-000000.tar",
    ]  # fmt: skip
    assert [read_audio(clip.audio).max().round(1) for clip in swapped if clip.audio] == [0.0, 0.1, 0.2]
    assert sorted(path.name for path in (tmp_path / "tars").iterdir()) == ["000-000000.tar", "000-000001.tar"]


def test_media_are_found_again_by_their_names(clips: list[Clip], tmp_path: Path) -> None:
    packed(clips, tmp_path / "tars")
    (tmp_path / "tars" / "broken.tar").write_bytes(b"no tar")
    found = stored_media(tmp_path / "tars")
    assert found["s2/c.flac"] == tmp_path / "tars" / "000-000001.tar" / "s2" / "c.flac"
    assert stored_media(tmp_path / "nowhere") == {}


def test_tars_of_an_older_division_into_shards_are_removed(clips: list[Clip], tmp_path: Path) -> None:
    moved = packed(clips, tmp_path / "tars")
    for old in ("00000-of-00002-000000.tar", "00001-of-00002-000000.tar"):
        (tmp_path / "tars" / old).write_bytes(b"old")
    remove_unused_tars(tmp_path / "tars", moved)
    assert sorted(path.name for path in (tmp_path / "tars").iterdir()) == ["000-000000.tar", "000-000001.tar"]
    (tmp_path / "tars" / "00001-of-00002-000000.tar").write_bytes(b"old")
    own = {clip.id: 0 for clip in moved}
    whole = pack(moved, own, (), tmp_path / "tars", "", scratch(tmp_path / "tars"))
    assert [path.name for path in (tmp_path / "tars").iterdir()] == ["000000.tar"]
    assert [read_audio(clip.audio).max().round(1) for clip in whole if clip.audio] == [0.0, 0.1, 0.2]
