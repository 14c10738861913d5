"""Importing trees that auto_avsr prepared. All media files here are empty: an import that opened one would fail."""

import logging
from pathlib import Path

import pytest

from data_prep.corpora.auto_avsr import read_auto_avsr, read_units
from data_prep.rejection import Reason
from omni_avsr.normalize import normalize_label

UNITS = "<unk> 1\n' 2\nS 3\n▁HELLO 4\n▁IT 5\n▁THERE 6\n"
TRAIN = "lrs3_train_transcript_lengths_seg16s.csv"
TEST = "lrs3_test_transcript_lengths_seg16s.csv"


def add_clip(root: Path, name: str, text: str | None = "HELLO THERE", dataset: str = "lrs3") -> str:
    """The files of a clip as auto_avsr writes them; the beginning of its label line."""
    video = root / dataset / f"{dataset}_video_seg16s" / f"{name}.mp4"
    video.parent.mkdir(parents=True, exist_ok=True)
    video.touch()
    video.with_suffix(".wav").touch()
    if text is not None:
        file = root / dataset / f"{dataset}_text_seg16s" / f"{name}.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return f"{dataset},{dataset}_video_seg16s/{name}.mp4"


def add_labels(root: Path, name: str, *lines: str | bytes) -> Path:
    path = root / "labels" / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"\n".join(line.encode() if isinstance(line, str) else line for line in lines))
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two clips of LRS3, one for training and one for test, with token ids and texts."""
    add_labels(tmp_path, TRAIN, add_clip(tmp_path, "pretrain/talkA/00001_00") + ",50,4 6")
    add_labels(tmp_path, TEST, add_clip(tmp_path, "test/talkB/00002", "IT'S ME") + ",25,5 2 3")
    return tmp_path


def test_clips_point_at_the_files_where_they_are(root: Path) -> None:
    train, test = read_auto_avsr(root)
    folder = root / "lrs3" / "lrs3_video_seg16s" / "pretrain" / "talkA"
    assert train.id == "lrs3/lrs3_video_seg16s/pretrain/talkA/00001_00"
    assert (train.media, train.audio) == (folder / "00001_00.mp4", folder / "00001_00.wav")
    assert (train.cropped_frames, train.seconds) == (50, 2.0)
    assert (train.split, train.speaker, train.needs_audio, train.problem) == ("train", "talkA", True, None)
    assert (test.split, test.speaker, test.seconds) == ("test", "talkB", 1.0)


def test_without_units_the_text_is_that_of_the_text_tree(root: Path) -> None:
    assert [clip.text for clip in read_auto_avsr(root)] == ["hello there", "it's me"]


def test_with_units_the_token_ids_are_the_text(root: Path) -> None:
    (root / "units.txt").write_text(UNITS)
    assert [clip.text for clip in read_auto_avsr(root, units=root / "units.txt")] == ["hello there", "it's"]


@pytest.mark.parametrize("token", ["1", "0", "7", "-4"])
def test_a_token_without_text_spoils_its_line_only(root: Path, token: str) -> None:
    (root / "units.txt").write_text(UNITS)
    add_labels(root, TRAIN, *[add_clip(root, f"trainval/a/{n}", None) + ",50,4 6" for n in range(3)])
    with (root / "labels" / TRAIN).open("a") as file:
        file.write("\n" + add_clip(root, "trainval/a/bad", None) + f",50,4 {token}")
    clips = {clip.id: clip for clip in read_auto_avsr(root, units=root / "units.txt")}
    problem = clips.pop(f"{TRAIN}:4").problem
    assert problem is not None
    assert problem.reason is Reason.BAD_LABEL
    assert f"token {token} has no text" in problem.detail
    assert all(clip.problem is None for clip in clips.values())
    assert len(clips) == 4


def test_without_units_or_text_the_problem_tells_what_to_give(root: Path) -> None:
    add_labels(root, TRAIN, add_clip(root, "trainval/talkA/00009", text=None) + ",50,4 6")
    problem = read_auto_avsr(root)[1].problem
    assert problem is not None
    assert problem.reason is Reason.MISSING_FILE
    assert "lrs3_text_seg16s/trainval/talkA/00009.txt does not exist; give `units`" in problem.detail


def test_a_text_that_is_not_utf8_is_a_bad_label(root: Path) -> None:
    (root / "lrs3" / "lrs3_text_seg16s" / "test" / "talkB" / "00002.txt").write_bytes(b"caf\xe9")
    clip = read_auto_avsr(root)[1]
    assert clip.id == f"{TEST}:1"
    assert clip.problem is not None
    assert clip.problem.reason is Reason.BAD_LABEL
    assert "00002.txt:1: not UTF-8" in clip.problem.detail


def test_labels_may_hold_text_with_commas_and_numbers(root: Path) -> None:
    lines = [add_clip(root, f"trainval/a/{n}", text=None) for n in range(3)]
    add_labels(root, TRAIN, lines[0] + ",50,Hello, there!", lines[1] + ",50,1984", f"{lines[2]}, 50, yes")
    assert [clip.text for clip in read_auto_avsr(root)[1:]] == ["hello there", normalize_label("1984"), "yes"]


@pytest.mark.parametrize(
    ("line", "detail"),
    [
        ("lrs3,lrs3_video_seg16s/a.mp4,50", "got 3 cells"),
        ("CLIP,many,4 6", "expected a number of frames, at least 1, got 'many'"),
        ("CLIP,-3,4 6", "got '-3'"),
        ("CLIP,0,4 6", "got '0'"),
        ("CLIP,²,4 6", "got '²'"),
        ("CLIP,12.5,4 6", "got '12.5'"),
        ("CLIP," + "9" * 5000 + ",4 6", "got '999"),
        ("lrs3,../../secret.mp4,50,4 6", "must be the path of a file inside"),
        ("lrs3,/etc/secret.mp4,50,4 6", "must be the path of a file inside"),
        (",,50,4 6", "must be the path of a file inside"),
        (b"lrs3,caf\xe9.mp4,50,4 6", "not UTF-8"),
    ],
)
def test_a_bad_line_is_a_problem_and_the_others_are_read(root: Path, line: str | bytes, detail: str) -> None:
    clip = add_clip(root, "trainval/talkA/00001")
    line = line if isinstance(line, bytes) else line.replace("CLIP", clip)
    path = add_labels(root, TRAIN, "", line, "", add_clip(root, "trainval/talkA/00003") + ",50,4 6", "")
    bad, good = (clip for clip in read_auto_avsr(root) if clip.split == "train")
    if bad.problem is None:
        bad, good = good, bad
    assert (bad.id, bad.media) == (f"{TRAIN}:2", path)
    assert bad.problem is not None
    assert bad.problem.reason is Reason.BAD_LABEL
    assert bad.problem.detail.startswith(f"{path}:2: ")
    assert detail in bad.problem.detail
    assert good.problem is None


def test_a_missing_video_keeps_the_clips_id(root: Path) -> None:
    (root / "lrs3" / "lrs3_video_seg16s" / "test" / "talkB" / "00002.mp4").unlink()
    clip = read_auto_avsr(root)[1]
    assert clip.id == "lrs3/lrs3_video_seg16s/test/talkB/00002"
    assert clip.problem is not None
    assert clip.problem.reason is Reason.MISSING_FILE
    assert clip.problem.detail.endswith("00002.mp4 does not exist")


def test_a_missing_sound_is_looked_for_where_the_option_says(root: Path) -> None:
    media = root / "lrs3" / "lrs3_video_seg16s" / "test" / "talkB" / "00002.mp4"
    media.with_suffix(".wav").unlink()
    problem = read_auto_avsr(root)[1].problem
    assert problem is not None
    assert problem.reason is Reason.MISSING_FILE
    assert "00002.wav does not exist; if the sound is in the .mp4" in problem.detail
    train, test = read_auto_avsr(root, sound="mp4")
    assert (test.audio, test.problem) == (media, None)
    assert train.audio == train.media.with_suffix(".wav")
    assert [(clip.audio, clip.needs_audio) for clip in read_auto_avsr(root, sound="none")] == [(None, False)] * 2


@pytest.mark.parametrize("word", ["val", "valid", "validation"])
def test_a_validation_file_is_found_by_its_name(root: Path, word: str) -> None:
    add_labels(root, f"lrs2_{word}_transcript_lengths_seg16s.csv", add_clip(root, "main/1/2", dataset="lrs2") + ",9,4")
    clip = read_auto_avsr(root)[0]
    assert (clip.split, clip.speaker) == ("validation", None)


def test_the_parts_of_an_unmerged_file_are_read_together(root: Path) -> None:
    for part in range(2):
        line = add_clip(root, f"dev/{part}", dataset="vox2") + ",50,4 6"
        add_labels(root, f"vox2_train_transcript_lengths_seg16s.2.{part}.csv", line)
    assert len(read_auto_avsr(root)) == 4


def test_two_versions_of_a_split_are_not_mixed(root: Path) -> None:
    add_labels(root, "lrs3_train_transcript_lengths_seg16s_0to100.csv", add_clip(root, "trainval/a/1") + ",50,4 6")
    with pytest.raises(ValueError, match=r"seg16s and lrs3_train_\w+_0to100 are both for train; choose the label"):
        read_auto_avsr(root)
    assert len(read_auto_avsr(root, {"train": [TRAIN], "test": [TEST]})) == 2


def test_a_file_whose_name_tells_no_split_is_told_and_can_be_chosen(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    name = "cstm_transcript_lengths_seg24s.csv"
    path = add_labels(root, name, add_clip(root, "trainval/a/1") + ",50,4 6")
    with caplog.at_level(logging.WARNING):
        assert len(read_auto_avsr(root)) == 2
    assert f"{path}: left out" in caplog.text
    (clip,) = read_auto_avsr(root, {"validation": [name]})
    assert clip.split == "validation"


def test_the_test_labels_cannot_be_the_validation_labels_too(root: Path) -> None:
    with pytest.raises(ValueError, match=r"lrs3_test\w+\.csv: chosen twice; a split must be apart"):
        read_auto_avsr(root, {"validation": [TEST], "test": [TEST]})


def test_a_clip_of_training_and_test_is_only_in_test(root: Path) -> None:
    line = add_clip(root, "test/talkB/00002") + ",25,4 6"
    add_labels(root, TRAIN, line, add_clip(root, "trainval/talkC/1") + ",25,4 6")
    clips = {clip.id: clip for clip in read_auto_avsr(root)}
    problem = clips[f"{TRAIN}:1"].problem
    assert problem is not None
    assert problem.reason is Reason.DUPLICATE
    assert f"{TEST}:1" in problem.detail
    assert clips["lrs3/lrs3_video_seg16s/test/talkB/00002"].split == "test"
    assert len(clips) == 3


def test_without_labels_the_error_says_what_was_expected(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"labels: no labels of auto_avsr; expected \.csv files"):
        read_auto_avsr(tmp_path)
    with pytest.raises(ValueError, match=r"nowhere\.csv: no such label file"):
        read_auto_avsr(tmp_path, {"train": ["nowhere.csv"]})


@pytest.mark.parametrize("line", ["▁THE", "▁THE 1 2", "▁THE x", "▁THE 1"])
def test_a_broken_units_file_names_its_line(tmp_path: Path, line: str) -> None:
    (tmp_path / "units.txt").write_text(f"<unk> 1\n{line}\n")
    with pytest.raises(ValueError, match=r"units\.txt:2: expected 'piece id'"):
        read_units(tmp_path / "units.txt")
