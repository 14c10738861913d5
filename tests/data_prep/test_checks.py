"""What is found wrong with a corpus before a file is opened."""

from pathlib import Path

import pytest

from data_prep.checks import find_problems
from data_prep.corpora.source import SourceClip
from data_prep.rejection import Problem, Reason


def clip(id: str, text: str = "bin blue", media: str = "x.mp4", problem: Problem | None = None) -> SourceClip:
    return SourceClip(id, Path(media), text, "train", problem=problem)


def reasons(*clips: SourceClip) -> list[Reason | None]:
    return [problem.reason if problem else None for problem in find_problems(clips, max_characters=20)]


@pytest.mark.parametrize("id", ["a", "s1/a.b", "深/ü", "a b/-c"])
def test_ids_that_are_paths_inside_a_folder_are_good(id: str) -> None:
    assert reasons(clip(id)) == [None]


@pytest.mark.parametrize(
    "id",
    ["", "/a", "../a", "a/../b", "a/./b", "a//b", "a/", "a\0b", "a\nb", "a\udcffb", "x" * 201, ".partial-a", "a/.b"],
)
def test_ids_that_are_none_are_refused(id: str) -> None:
    assert reasons(clip(id)) == [Reason.BAD_NAME]


def test_the_first_of_clips_with_one_id_is_taken_unless_it_is_of_no_use() -> None:
    assert reasons(clip("a", ""), clip("a"), clip("a"), clip("b")) == [
        Reason.EMPTY_TRANSCRIPT,
        None,
        Reason.DUPLICATE,
        None,
    ]
    (_, problem) = find_problems([clip("a", media="x.mp4"), clip("a", media="y.mp4")], 20)
    assert problem == Problem(Reason.DUPLICATE, "y.mp4 and x.mp4 would both become clip 'a'")


def test_transcripts_have_a_length() -> None:
    assert reasons(clip("a", ""), clip("b", "x" * 20), clip("c", "x" * 21)) == [
        Reason.EMPTY_TRANSCRIPT,
        None,
        Reason.LONG_TRANSCRIPT,
    ]


def test_what_a_reader_found_comes_first() -> None:
    assert reasons(clip("", "", problem=Problem(Reason.BAD_LABEL, "line 3"))) == [Reason.BAD_LABEL]
