"""Manifests: round trip, fixed bytes, and errors that name the line."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from omni_avsr.data.manifest import read_manifest, write_manifest
from omni_avsr.types import Clip, Word

GOOD = {"id": "a", "audio": "a.flac", "seconds": 1.0, "text": "bin blue", "split": "train"}


def clips(folder: Path) -> list[Clip]:
    return [
        Clip(
            id="s1/a",
            text="bin blué",
            split="train",
            seconds=3.0,
            audio=folder / "audio" / "s1" / "a.flac",
            video=folder / "video" / "s1" / "a.mp4",
            num_frames=75,
            speaker="s1",
            words=(Word("bin", 0.1, 0.3), Word("blué", 0.3, 0.52)),
            quality={"face_size": 119.5, "detected": 1.0},
        ),
        Clip(id="b", text="", split="test", seconds=1.5, audio=folder.parent / "b.flac"),
    ]


def lines(folder: Path, *records: Any) -> Path:
    path = folder / "manifest.jsonl"
    path.write_text("".join(f"{r if isinstance(r, str) else json.dumps(r)}\n" for r in records), encoding="utf-8")
    return path


def test_clips_survive_the_round_trip(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    write_manifest(folder / "manifest.jsonl", clips(folder))
    back = read_manifest(folder / "manifest.jsonl")
    assert [os.path.normpath(clip.audio or "") for clip in back] == [str(clip.audio) for clip in clips(folder)]
    assert back[0] == clips(folder)[0]
    assert (back[1].video, back[1].num_frames, back[1].words, back[1].text) == (None, 0, (), "")


def test_paths_are_relative_so_a_folder_can_move(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    write_manifest(tmp_path / "data" / "manifest.jsonl", clips(tmp_path / "data"))
    (tmp_path / "data").rename(tmp_path / "moved")
    assert (
        read_manifest(tmp_path / "moved" / "manifest.jsonl")[0].video == tmp_path / "moved" / "video" / "s1" / "a.mp4"
    )


def test_equal_clips_give_equal_bytes(tmp_path: Path) -> None:
    first, second = tmp_path / "1.jsonl", tmp_path / "2.jsonl"
    write_manifest(first, clips(tmp_path))
    write_manifest(second, read_manifest(first))
    assert first.read_bytes() == second.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1.jsonl", "2.jsonl"]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ("{not json", "not JSON"),
        ("[1]", "expected a JSON object, got list"),
        ({key: value for key, value in GOOD.items() if key != "text"}, "missing field text"),
        ({**GOOD, "id": "b", "frame": 3}, "unknown field frame; known are"),
        (GOOD, "id 'a' is already on line 1"),
        ({**GOOD, "id": ""}, "field id must be a non-empty string, got ''"),
        ({**GOOD, "id": "b", "seconds": "3"}, "seconds must be a number, got '3'"),
        ({**GOOD, "id": "b", "seconds": 0}, "seconds must be positive"),
        ({**GOOD, "id": "b", "frames": 75}, "frames must be a positive whole number with video"),
        ({**GOOD, "id": "b", "video": "a.mp4"}, "frames must be a positive whole number with video"),
        ({key: value for key, value in GOOD.items() if key != "audio"}, "needs audio, video or both"),
        ({**GOOD, "id": "b", "words": [["bin", 0.1, 0.2]]}, r"words must be a list of \[start, end, text\]"),
        ({**GOOD, "id": "b", "quality": {"detected": "all"}}, "quality detected must be a number"),
    ],
)
def test_a_bad_line_is_named_with_what_is_wrong(tmp_path: Path, bad: Any, message: str) -> None:
    path = lines(tmp_path, GOOD, bad)
    with pytest.raises(ValueError, match=rf"manifest\.jsonl:2: .*{message}"):
        read_manifest(path)


def test_missing_media_are_an_error_only_when_asked_for(tmp_path: Path) -> None:
    path = lines(tmp_path, GOOD)
    assert len(read_manifest(path)) == 1
    with pytest.raises(ValueError, match=r"manifest\.jsonl:1: clip 'a': .*a\.flac does not exist"):
        read_manifest(path, check_files=True)
    (tmp_path / "a.flac").touch()
    assert len(read_manifest(path, check_files=True)) == 1


def test_a_missing_manifest_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"none\.jsonl: no such manifest"):
        read_manifest(tmp_path / "none.jsonl")


def test_a_line_separator_inside_a_text_does_not_split_the_line(tmp_path: Path) -> None:
    path = tmp_path / "manifest.jsonl"
    write_manifest(
        path, [Clip(id="a", text="one\u2028two\u0085three", split="train", seconds=1.0, audio=tmp_path / "a")]
    )
    assert read_manifest(path)[0].text == "one\u2028two\u0085three"


def test_reading_manifests_loads_no_media_library() -> None:
    code = "import sys, omni_avsr.data.manifest; sys.exit(bool({'av', 'cv2', 'mediapipe'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
