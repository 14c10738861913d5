"""Reading LibriSpeech and trees like it."""

from pathlib import Path

import pytest

from data_prep.corpora.librispeech import read_librispeech
from data_prep.corpora.source import SourceClip
from data_prep.rejection import Reason


def chapter(folder: Path, lines: str | bytes | None, *audio: str) -> Path:
    """A chapter's folder ``.../<speaker>/<chapter>`` with its transcripts and audio."""
    folder.mkdir(parents=True)
    name = f"{folder.parent.name}-{folder.name}"
    if lines is not None:
        (folder / f"{name}.trans.txt").write_bytes(lines if isinstance(lines, bytes) else lines.encode())
    for utterance in audio:
        (folder / utterance).touch()
    return folder


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    for subset in ("train-clean-100", "dev-other", "test-clean"):
        chapter(tmp_path / "LibriSpeech" / subset / "19" / "198", "19-198-0000 IT'S A\n", "19-198-0000.flac")
    (tmp_path / "LibriSpeech" / "SPEAKERS.TXT").touch()
    return tmp_path


def facts(clips: list[SourceClip]) -> list[tuple[str, str, str | None, str]]:
    return [(clip.id, clip.split, clip.speaker, clip.text) for clip in clips]


@pytest.mark.parametrize("source", ["LibriSpeech", "."])
def test_subsets_are_splits(corpus: Path, source: str) -> None:
    clips = read_librispeech(corpus / source)
    assert facts(clips) == [
        ("dev-other/19/198/19-198-0000", "validation", "19", "it's a"),
        ("test-clean/19/198/19-198-0000", "test", "19", "it's a"),
        ("train-clean-100/19/198/19-198-0000", "train", "19", "it's a"),
    ]
    assert all(clip.media == corpus / source / "LibriSpeech" / f"{clip.id}.flac" for clip in clips if source == ".")
    assert not any(clip.needs_video or clip.problem or not clip.media.is_file() for clip in clips)


def test_one_subset_may_be_the_source(corpus: Path) -> None:
    clips = read_librispeech(corpus / "LibriSpeech" / "test-clean")
    assert facts(clips) == [("test-clean/19/198/19-198-0000", "test", "19", "it's a")]


def test_train_without_dev_holds_out_whole_speakers(tmp_path: Path) -> None:
    for speaker in range(30):
        names = [f"{speaker}-1-{number:04d}" for number in range(3)]
        lines = "".join(f"{name} YES\n" for name in names)
        chapter(tmp_path / "train-clean-5" / str(speaker) / "1", lines, *(f"{name}.flac" for name in names))
    clips = read_librispeech(tmp_path)
    moved = {clip.speaker for clip in clips if clip.split == "validation"}
    assert moved
    assert not moved & {clip.speaker for clip in clips if clip.split == "train"}


def test_a_tree_without_subsets_is_train(tmp_path: Path) -> None:
    chapter(
        tmp_path / "books" / "19" / "198", "19-198-0000\tYES\n19-198-0001 NO\n", "19-198-0000.wav", "19-198-0001.wav"
    )
    clips = read_librispeech(tmp_path / "books")
    assert [(clip.id, clip.text) for clip in clips] == [("19/198/19-198-0000", "yes"), ("19/198/19-198-0001", "no")]
    assert {clip.split for clip in clips} == {"train", "validation"}


def test_each_bad_line_and_missing_file_costs_only_itself(tmp_path: Path) -> None:
    lines = b"19-198-0000 YES\n\n19-198-0001 \xff\n19-198-0002 GONE\n19-198-0004\n../../19-198-0000 UP\n\xff\xfe NO\n"
    audio = [f"19-198-000{number}.flac" for number in (0, 1, 3, 4)]
    chapter(tmp_path / "test-clean" / "19" / "198", lines, *audio)
    chapter(tmp_path / "test-clean" / "19" / "199", None, "19-199-0000.flac")
    found = {clip.id.removeprefix("test-clean/19/"): clip for clip in read_librispeech(tmp_path)}
    assert {id: clip.problem.reason for id, clip in found.items() if clip.problem} == {
        "198/19-198-0001": Reason.BAD_LABEL,
        "198/19-198-0002": Reason.MISSING_FILE,
        "198/19-198-0003": Reason.MISSING_FILE,
        "198/19-198.trans.txt:6": Reason.MISSING_FILE,
        "198/\ufffd\ufffd": Reason.MISSING_FILE,
        "199/19-199-0000": Reason.MISSING_FILE,
    }
    assert found["198/19-198-0000"].text == "yes"
    assert (found["198/19-198-0004"].text, found["198/19-198-0004"].problem) == ("", None)


def test_transcripts_that_are_no_file_cost_only_their_chapter(corpus: Path) -> None:
    broken = corpus / "LibriSpeech" / "test-clean" / "19" / "198" / "19-198.trans.txt"
    broken.unlink()
    broken.symlink_to("gone")
    found = {clip.id: clip.problem for clip in read_librispeech(corpus)}
    assert sum(problem is None for problem in found.values()) == 2
    assert found["test-clean/19/198/19-198.trans.txt"] is not None
    assert found["test-clean/19/198/19-198-0000"] is not None


def test_a_tree_without_transcripts_is_an_error(tmp_path: Path) -> None:
    chapter(tmp_path / "test-clean" / "19" / "198", None, "19-198-0000.flac")
    with pytest.raises(ValueError, match=r"no transcripts; expected <subset>/<speaker>/<chapter>"):
        read_librispeech(tmp_path)
