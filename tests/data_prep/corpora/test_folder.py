"""Reading a folder with a table."""

from collections import Counter
from pathlib import Path

import pytest

from data_prep.corpora.folder import read_folder
from data_prep.rejection import Reason


def test_a_folder_table_gives_clips(tmp_path: Path) -> None:
    (tmp_path / "transcripts.tsv").write_text("file\tspeaker\ttext\tstyle\nx/a.flac\tp1\tHELLO  there\tloud\n")
    (clip,) = read_folder(tmp_path)
    assert (clip.id, clip.media, clip.text) == ("x/a", tmp_path / "x" / "a.flac", "hello there")
    assert (clip.split, clip.speaker, clip.problem) == ("test", "p1", None)
    assert (clip.needs_audio, clip.needs_video) == (True, False)


def test_a_table_with_commas_may_quote_them(tmp_path: Path) -> None:
    (tmp_path / "my.csv").write_text('text,file,split\n"Well, yes",a.mp4,Dev\n')
    (clip,) = read_folder(tmp_path, "my.csv")
    assert (clip.id, clip.text, clip.split) == ("a", "well yes", "validation")


def test_quotes_in_a_table_with_tabs_are_text(tmp_path: Path) -> None:
    (tmp_path / "transcripts.tsv").write_text('file\ttext\na.mp4\t"yes\nb.mp4\tno"\n')
    assert [clip.text for clip in read_folder(tmp_path)] == ["yes", "no"]


def test_silent_videos_need_no_audio(tmp_path: Path) -> None:
    (tmp_path / "transcripts.tsv").write_text("file\ttext\na.mp4\tyes\n")
    (clip,) = read_folder(tmp_path, silent=True)
    assert (clip.needs_audio, clip.needs_video) == (False, True)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"transcripts\.tsv:1: no column file, text"),
        (b"file\tspeaker\na\tb\n", r"transcripts\.tsv:1: no column text"),
        (b"file\ttext\n\n", r"transcripts\.tsv: no clips"),
        (b"file\ttext\xff\n", r"transcripts\.tsv:1: the header cannot be read"),
    ],
)
def test_a_table_without_clips_is_an_error(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "transcripts.tsv").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_folder(tmp_path)


def test_a_folder_without_its_table_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"transcripts\.tsv: no such table; expected columns file, text"):
        read_folder(tmp_path)


def test_a_header_with_an_open_quote_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "my.csv").write_text('"file,text\na.mp4,yes\n')
    with pytest.raises(ValueError, match=r"my\.csv:1: the header cannot be read"):
        read_folder(tmp_path, "my.csv")


@pytest.mark.parametrize(
    "line",
    [
        b"b.flac",
        b"b.flac\tyes\tx\tmore",
        b"b.flac\tyes\xff\t",
        b"../b.flac\tyes\t",
        b"/etc/b.flac\tyes\t",
        b"\tyes\t",
        b".\tyes\t",
        b"b\0.flac\tyes\t",
    ],
)
def test_a_bad_line_costs_only_itself(tmp_path: Path, line: bytes) -> None:
    (tmp_path / "transcripts.tsv").write_bytes(b"file\ttext\tsplit\na.flac\thello\t\n" + line + b"\n")
    good, bad = read_folder(tmp_path)
    assert (good.id, good.problem) == ("a", None)
    assert bad.problem is not None
    assert (bad.id, bad.problem.reason) == ("transcripts.tsv:3", Reason.BAD_LABEL)
    assert "transcripts.tsv:3" in bad.problem.detail


def test_a_bad_line_with_commas_costs_only_itself(tmp_path: Path) -> None:
    (tmp_path / "my.csv").write_text('file,text\na.mp4,"open\nb.mp4,yes\n')
    bad, good = sorted(read_folder(tmp_path, "my.csv"), key=lambda clip: clip.problem is None)
    assert (bad.id, good.id, good.text) == ("my.csv:2", "b", "yes")


def test_an_empty_text_is_left_to_the_preparation(tmp_path: Path) -> None:
    (tmp_path / "transcripts.tsv").write_text("file\ttext\na.flac\t \nb.flac\t{LAUGH}\n")
    assert [(clip.text, clip.problem) for clip in read_folder(tmp_path)] == [("", None), ("", None)]


def test_train_clips_give_up_some_for_validation(tmp_path: Path) -> None:
    lines = "".join(f"{number}.flac\tyes\t{'test' if number % 2 else 'train'}\n" for number in range(100))
    (tmp_path / "transcripts.tsv").write_text(f"file\ttext\tsplit\n{lines}")
    counts = Counter(clip.split for clip in read_folder(tmp_path))
    assert counts["test"] == 50
    assert 1 <= counts["validation"] <= 10
    assert counts["train"] == 50 - counts["validation"]


def test_shared_folders_are_read(shared: Path) -> None:
    for name, count in (("grid_unseen", 6), ("librispeech_test_other", 60)):
        clips = read_folder(shared / "data" / name)
        assert len(clips) == count
        assert all(clip.split == "test" and clip.problem is None and clip.text for clip in clips)
