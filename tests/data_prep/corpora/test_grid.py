"""Reading GRID and plain folders."""

from collections import Counter
from pathlib import Path

import pytest

from data_prep.grid import read_align, read_grid
from data_prep.sources import read_folder
from omni_avsr.types import Word

ALIGN = "0 23750 sil\n23750 29500 bin\n29500 30000 sp\n30000 34000 Blue\n34000 74500 sil\n"


@pytest.fixture
def grid(tmp_path: Path) -> Path:
    (tmp_path / "s1").mkdir()
    for name in ("b.mpg", "a.mp4", "c.mp4"):
        (tmp_path / "s1" / name).touch()
    for name in ("a", "b"):
        (tmp_path / "s1" / f"{name}.align").write_text(ALIGN)
    return tmp_path


def test_alignments_give_words_in_seconds_without_silences(grid: Path) -> None:
    assert read_align(grid / "s1" / "a.align") == (Word("bin", 0.95, 1.18), Word("blue", 1.2, 1.36))


@pytest.mark.parametrize("line", ["0 100", "0 x bin", "200 100 bin"])
def test_a_broken_alignment_names_its_line(tmp_path: Path, line: str) -> None:
    (tmp_path / "a.align").write_text(f"0 100 sil\n{line}\n")
    with pytest.raises(ValueError, match=r"a\.align:2: expected 'start end word'"):
        read_align(tmp_path / "a.align")


def test_without_a_split_table_every_grid_clip_is_read(grid: Path) -> None:
    clips = read_grid(grid, split="validation")
    assert [clip.id for clip in clips] == ["s1/a", "s1/b", "s1/c"]
    assert {clip.split for clip in clips} == {"validation"}
    assert (clips[0].text, clips[0].speaker, clips[0].problem) == ("bin blue", "s1", None)


def test_a_clip_without_alignment_is_kept_with_its_problem(grid: Path) -> None:
    assert "c.align: no such alignment" in (read_grid(grid)[2].problem or "")


def test_the_split_table_chooses_clips(grid: Path) -> None:
    (grid / "split.tsv").write_text("clip\tsplit\ns1/b.mpg\ttest\ns1/a.mp4\ttrain\n")
    assert [(clip.id, clip.split) for clip in read_grid(grid)] == [("s1/a", "train"), ("s1/b", "test")]


def test_a_clip_listed_twice_is_an_error(grid: Path) -> None:
    (grid / "split.tsv").write_text("clip\tsplit\ns1/b.mpg\ttest\ns1/b.mpg\ttrain\n")
    with pytest.raises(ValueError, match=r"split\.tsv:3: clip s1/b\.mpg is listed twice"):
        read_grid(grid)


def test_an_empty_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no GRID clips"):
        read_grid(tmp_path)


def test_a_folder_table_gives_clips(tmp_path: Path) -> None:
    (tmp_path / "transcripts.tsv").write_text("file\tspeaker\ttext\tstyle\nx/a.flac\tp1\tHELLO  there\tloud\n")
    (clip,) = read_folder(tmp_path)
    assert (clip.id, clip.media, clip.text) == ("x/a", tmp_path / "x" / "a.flac", "hello there")
    assert (clip.split, clip.speaker) == ("test", "p1")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", r"transcripts\.tsv:1: no column file, text"),
        ("file\tspeaker\na\tb\n", r"transcripts\.tsv:1: no column text"),
        ("file\ttext\na.flac\thello\nb.flac\n", r"transcripts\.tsv:3: 1 cells under 2 columns"),
        ("file\ttext\na.flac\t \n", r"transcripts\.tsv:2: file and text must not be empty"),
    ],
)
def test_a_bad_table_names_its_line(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "transcripts.tsv").write_text(content)
    with pytest.raises(ValueError, match=message):
        read_folder(tmp_path)


def test_the_shared_corpora_are_read(shared: Path) -> None:
    grid_clips = read_grid(shared / "data" / "grid")
    assert Counter(clip.split for clip in grid_clips) == {"train": 780, "validation": 40, "test": 80}
    assert all(clip.problem is None and len(clip.words) == 6 for clip in grid_clips)
    assert len(read_folder(shared / "data" / "grid_unseen")) == 6
    assert Counter(clip.split for clip in read_folder(shared / "data" / "lombard_grid")).keys() == {"train", "test"}
