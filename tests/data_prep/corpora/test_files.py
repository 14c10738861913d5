"""The files of a corpus: the walk, paths in labels, and label files."""

import os
from pathlib import Path

import pytest

from data_prep.corpora import files
from data_prep.corpora.files import files_below, inside, read_label, stem_of, suffix_of
from data_prep.rejection import ProblemError, Reason


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def test_all_files_are_found_sorted_without_hidden_ones(tmp_path: Path) -> None:
    touch(tmp_path, "s2/a.mpg", "s10/b.mpg", "readme", "s2/._a.mpg", ".git/config", "s2/align/x/c.align")
    assert files_below(tmp_path) == ["readme", "s10/b.mpg", "s2/a.mpg", "s2/align/x/c.align"]


def test_a_folder_that_is_none_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such folder"):
        files_below(tmp_path / "gone")


def test_links_that_lead_round_or_nowhere_end_the_walk_nowhere(tmp_path: Path) -> None:
    touch(tmp_path, "a/x.mpg")
    touch(tmp_path.parent / f"{tmp_path.name}-disk", "y.mpg")
    (tmp_path / "a" / "back").symlink_to(tmp_path)
    (tmp_path / "self").symlink_to("self")
    (tmp_path / "annexed.mpg").symlink_to("gone.mpg")
    (tmp_path / "disk").symlink_to(tmp_path.parent / f"{tmp_path.name}-disk")
    assert files_below(tmp_path) == ["a/x.mpg", "annexed.mpg", "disk/y.mpg", "self"]


def test_a_pipe_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.txt")
    (tmp_path / "link.txt").symlink_to("pipe.txt")
    assert files_below(tmp_path) == []


def test_a_name_that_is_no_unicode_is_found(tmp_path: Path) -> None:
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.mpg")).touch()
    assert [os.fsencode(name) for name in files_below(tmp_path)] == [b"\xff.mpg"]


def test_stem_and_suffix_ignore_folders() -> None:
    assert (stem_of("s1.x/a.b.MPG"), suffix_of("s1.x/a.b.MPG"), suffix_of("s1.x/a")) == ("a.b", ".mpg", "")


@pytest.mark.parametrize("name", ["../a.mp4", "x/../../a.mp4", "/etc/passwd", "", ".", "..", "a\0.mp4"])
def test_a_path_that_may_leave_the_folder_is_a_problem(name: str) -> None:
    with pytest.raises(ProblemError, match=r"t\.tsv:3: .* inside") as caught:
        inside(name, "t.tsv:3")
    assert caught.value.problem.reason is Reason.BAD_LABEL


def test_a_path_inside_is_kept() -> None:
    assert inside("x/./é .mp4", "t.tsv:3").as_posix() == "x/é .mp4"


def test_lines_of_a_label_end_only_at_line_ends(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("\ufeffone\u2028still\x0bone\r\ntwo\rthree\n".encode())
    assert read_label(tmp_path / "a.txt") == ["one\u2028still\x0bone", "two", "three", ""]


@pytest.mark.parametrize(
    ("content", "reason", "message"),
    [
        (None, Reason.MISSING_FILE, r"a\.txt: no such label file"),
        (b"Text: a\nConf: \xff\n", Reason.BAD_LABEL, r"a\.txt:2: not UTF-8"),
        ("Text: a".encode("utf-16"), Reason.BAD_LABEL, r"a\.txt:1: not UTF-8"),
        (b"x" * 33, Reason.BAD_LABEL, r"a\.txt: more than 32 bytes"),
    ],
)
def test_a_label_that_cannot_be_read_is_a_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None, reason: Reason, message: str
) -> None:
    monkeypatch.setattr(files, "MAX_LABEL_BYTES", 32)
    if content is not None:
        (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(ProblemError, match=message) as caught:
        read_label(tmp_path / "a.txt")
    assert caught.value.problem.reason is reason


def test_a_folder_in_place_of_a_label_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "a.txt").mkdir()
    with pytest.raises(ProblemError, match=r"a\.txt: cannot be read"):
        read_label(tmp_path / "a.txt")
