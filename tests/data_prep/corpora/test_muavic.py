"""Importing the English part of MuAViC. All media files here are empty: an import that opened one would fail."""

from pathlib import Path

import pytest

from data_prep.corpora.muavic import read_muavic
from data_prep.rejection import Reason


def add_split(root: Path, name: str, texts: dict[str, str]) -> None:
    """The files of a split as MuAViC's scripts write them: no newline at the end of the texts."""
    lines = ["/"]
    for id in texts:
        video, audio = (
            root / "en" / kind / name / f"{id}{end}" for kind, end in (("video", ".mp4"), ("audio", ".wav"))
        )
        for file in (video, audio):
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()
        lines.append(f"{id}\t{video}\t{audio}\t50\t32001")
    (root / "en" / f"{name}_avsr.tsv").write_text("".join(f"{line}\n" for line in lines))
    (root / "en" / f"{name}_avsr.en").write_text("\n".join(texts.values()))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "muavic"
    # LRS3's pretrain and trainval, which training is made of, number the clips of a talk each by itself.
    add_split(root, "train", {"talkA/00001_3": "one", "talkB/00001": "two"})
    add_split(root, "valid", {"talkB/00001": "three"})
    add_split(root, "test", {"talkC/00001": "it's four"})
    return root


def test_clips_point_at_the_files_where_they_are(root: Path) -> None:
    clips = read_muavic(root)
    assert [(clip.id, clip.text, clip.split, clip.speaker) for clip in clips] == [
        ("test/talkC/00001", "it's four", "test", "talkC"),
        ("train/talkA/00001_3", "one", "train", "talkA"),
        ("train/talkB/00001", "two", "train", "talkB"),
        ("validation/talkB/00001", "three", "validation", "talkB"),
    ]
    assert clips[0].media == root / "en" / "video" / "test" / "talkC" / "00001.mp4"
    assert clips[0].audio == root / "en" / "audio" / "test" / "talkC" / "00001.wav"
    assert (clips[0].cropped_frames, clips[0].seconds, clips[0].problem) == (50, 32001 / 16000, None)


def test_a_moved_tree_is_found_by_its_new_folder(root: Path) -> None:
    new = root.rename(root.with_name("new"))
    assert all(clip.problem is None for clip in read_muavic(new, (root, new)))
    assert all(clip.problem and clip.problem.reason is Reason.MISSING_FILE for clip in read_muavic(new))


def test_other_languages_are_not_taken_for_english(root: Path) -> None:
    (root / "en").rename(root / "es")
    with pytest.raises(
        ValueError, match=r"en: no manifests of AV-HuBERT; expected one or more of train_avsr\.tsv with"
    ):
        read_muavic(root)


def test_a_talk_is_told_from_an_id_of_two_parts_only(root: Path) -> None:
    add_split(root, "test", {"00001": "flat"})
    assert read_muavic(root)[0].speaker is None
