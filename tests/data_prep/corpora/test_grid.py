"""Reading GRID in the layouts that its downloads and its users give it."""

from collections import Counter
from pathlib import Path

import pytest

from data_prep.corpora.grid import TEST_SPEAKERS, VALIDATION_SPEAKERS, read_grid
from data_prep.corpora.grid_alignments import read_align
from data_prep.rejection import ProblemError, Reason
from omni_avsr.types import Word

ALIGN = "0 23750 sil\n23750 29500 bin\n29500 30000 sp\n30000 34000 Blue\n34000 74500 sil\n"


def touch(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


def align(path: Path, text: str = ALIGN) -> None:
    touch(path)
    path.write_text(text)


@pytest.fixture
def grid(tmp_path: Path) -> Path:
    for name in ("b.mpg", "a.mp4", "c.mp4"):
        touch(tmp_path / "s1" / name)
    for name in ("a", "b"):
        align(tmp_path / "s1" / f"{name}.align")
    return tmp_path


def test_alignments_give_words_in_seconds_without_silences(grid: Path) -> None:
    assert read_align(grid / "s1" / "a.align") == (Word("bin", 0.95, 1.18), Word("blue", 1.2, 1.36))


@pytest.mark.parametrize(
    "line", ["0 100", "0 x bin", "200 100 bin", "0 ² bin", "-1 5 bin", "0 1.5 bin", f"0 {'9' * 5000} bin"]
)
def test_a_broken_alignment_names_its_line(tmp_path: Path, line: str) -> None:
    (tmp_path / "a.align").write_text(f"0 100 sil\n{line}\n")
    with pytest.raises(ProblemError, match=r"a\.align:2: expected 'start end word'") as caught:
        read_align(tmp_path / "a.align")
    assert caught.value.problem.reason is Reason.BAD_LABEL


def test_an_alignment_of_silence_is_an_empty_text(grid: Path) -> None:
    align(grid / "s1" / "c.align", "0 74500 sil\n")
    clip = read_grid(grid)[2]
    assert (clip.id, clip.text, clip.words, clip.problem) == ("s1/c", "", (), None)


def test_a_clip_without_alignment_is_kept_with_its_problem(grid: Path) -> None:
    clips = read_grid(grid)
    assert [clip.id for clip in clips] == ["s1/a", "s1/b", "s1/c"]
    assert (clips[0].text, clips[0].speaker, clips[0].problem) == ("bin blue", "s1", None)
    assert clips[0].needs_video
    assert clips[2].problem is not None
    assert clips[2].problem.reason is Reason.MISSING_FILE
    assert "c.mp4: no alignment; expected c.align beside it" in clips[2].problem.detail


def test_a_broken_alignment_is_a_problem_of_its_clip(grid: Path) -> None:
    (grid / "s1" / "b.align").write_bytes(b"0 100 \xff\n")
    (problem,) = [clip.problem for clip in read_grid(grid) if clip.id == "s1/b"]
    assert problem is not None
    assert problem.reason is Reason.BAD_LABEL
    assert "b.align:1: not UTF-8" in problem.detail


@pytest.mark.parametrize(
    ("video", "alignment"),
    [
        ("s3/a.mpg", "s3/a.align"),
        ("s3/a.mpg", "s3/align/a.align"),
        ("s3/a.mpg", "align/s3/a.align"),
        ("s3/a.mpg", "alignments/s3/a.align"),
        ("s3/video/a.mp4", "s3/align/a.align"),
        ("s3/s3/a.mpg", "alignments/s3/a.align"),
        ("s3/video/mpg_6000/a.mpg", "s3/align/s3/a.align"),
        ("s3.mpg_6000.part1/s3/video/mpg_6000/a.mpg", "s3.align/s3/align/a.align"),
        ("video/s3/a.MPG", "align/s3/a.align"),
    ],
)
def test_layouts_of_downloads_give_the_same_clip(tmp_path: Path, video: str, alignment: str) -> None:
    touch(tmp_path / video)
    align(tmp_path / alignment)
    for name, colour in (("s4", "red"), ("s5", "green")):
        touch(tmp_path / video.replace("s3", name))
        align(tmp_path / alignment.replace("s3", name), ALIGN.replace("Blue", colour))
    clips = read_grid(tmp_path)
    assert [(clip.id, clip.speaker, clip.text) for clip in clips] == [
        ("s3/a", "s3", "bin blue"),
        ("s4/a", "s4", "bin red"),
        ("s5/a", "s5", "bin green"),
    ]
    assert all(clip.problem is None for clip in clips)


def test_one_speakers_folder_may_be_the_source(grid: Path) -> None:
    assert [(clip.id, clip.speaker) for clip in read_grid(grid / "s1")][:2] == [("s1/a", "s1"), ("s1/b", "s1")]


def test_alignments_below_another_speakers_name_are_found_by_the_clips_names(tmp_path: Path) -> None:
    """Zenodo's alignments.zip: the folder s5 holds the alignments of s6, and the other way round."""
    for speaker, other, word in (("s5", "s6", "red"), ("s6", "s5", "green")):
        for name in (f"only{speaker}a", f"only{speaker}b", "both"):
            touch(tmp_path / speaker / f"{name}.mpg")
            align(tmp_path / "alignments" / other / f"{name}.align", f"0 100 {word}\n")
    assert {(clip.speaker, clip.text) for clip in read_grid(tmp_path)} == {("s5", "red"), ("s6", "green")}


def test_other_speakers_alignments_are_not_borrowed(tmp_path: Path) -> None:
    for speaker in ("s5", "s6"):
        for number in range(3):
            touch(tmp_path / speaker / f"{number}.mpg")
    for number in range(2):
        align(tmp_path / "align" / "s5" / f"{number}.align")
    clips = read_grid(tmp_path)
    assert [clip.problem is None for clip in clips] == [True, True, False, False, False, False]


def test_the_usual_unseen_speakers_are_test(tmp_path: Path) -> None:
    for number in range(1, 35):
        touch(tmp_path / f"s{number}" / "a.mpg")
        align(tmp_path / f"s{number}" / "a.align")
    clips = read_grid(tmp_path)
    assert {clip.speaker for clip in clips if clip.split == "test"} == TEST_SPEAKERS
    assert {clip.speaker for clip in clips if clip.split == "validation"} == VALIDATION_SPEAKERS
    assert sum(clip.split == "train" for clip in clips) == 28


def test_without_the_named_validation_speakers_others_are_held_out(tmp_path: Path) -> None:
    for number in (1, *range(5, 20)):
        touch(tmp_path / f"s{number}" / "a.mpg")
        align(tmp_path / f"s{number}" / "a.align")
    counts = Counter(clip.split for clip in read_grid(tmp_path))
    assert counts["test"] == 1
    assert counts["validation"] >= 1


@pytest.mark.parametrize("speakers", [("s1",), ("s1", "s2"), ("s7",), ("s7", "s8")])
def test_speakers_that_cannot_be_kept_apart_are_split_by_clips(tmp_path: Path, speakers: tuple[str, ...]) -> None:
    for speaker in speakers:
        for number in range(100):
            touch(tmp_path / speaker / f"{number}.mpg")
            align(tmp_path / speaker / f"{number}.align")
    counts = Counter(clip.split for clip in read_grid(tmp_path))
    assert counts.keys() == {"train", "validation", "test"}
    assert counts["train"] > 0.7 * counts.total()


def test_one_split_may_be_asked_for(grid: Path) -> None:
    assert {clip.split for clip in read_grid(grid, split="test")} == {"test"}


def test_the_split_table_chooses_clips(grid: Path) -> None:
    (grid / "split.tsv").write_text("clip\tsplit\ns1/b.mpg\ttest\ns1/a.mp4\tval\n")
    assert [(clip.id, clip.split) for clip in read_grid(grid)] == [("s1/a", "validation"), ("s1/b", "test")]


def test_a_bad_line_of_the_split_table_costs_only_itself(grid: Path) -> None:
    (grid / "split.tsv").write_text("clip\tsplit\ns1/b.mpg\ttest\n../x.mpg\ttest\ns1/gone.mpg\ttest\ns1/a.mp4\n")
    clips = {clip.id: clip.problem for clip in read_grid(grid)}
    assert clips.pop("s1/b") is None
    assert {id: problem.reason for id, problem in clips.items() if problem is not None} == {
        "split.tsv:3": Reason.BAD_LABEL,
        "s1/gone": Reason.MISSING_FILE,
        "split.tsv:5": Reason.BAD_LABEL,
    }


def test_a_clip_listed_twice_is_left_to_the_preparation(grid: Path) -> None:
    (grid / "split.tsv").write_text("clip\tsplit\ns1/b.mpg\ttest\ns1/b.mpg\ttrain\n")
    assert sorted((clip.id, clip.split) for clip in read_grid(grid)) == [("s1/b", "test"), ("s1/b", "train")]


def test_an_empty_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no GRID clips"):
        read_grid(tmp_path)


def test_the_shared_speaker_is_read(shared: Path) -> None:
    clips = read_grid(shared / "data" / "grid")
    assert Counter(clip.split for clip in clips) == {"train": 780, "validation": 40, "test": 80}
    assert all(clip.problem is None and len(clip.words) == 6 for clip in clips)
    assert all(clip.text == " ".join(word.text for word in clip.words) for clip in clips)
