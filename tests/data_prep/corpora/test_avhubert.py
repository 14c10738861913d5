"""Importing AV-HuBERT's manifests. All media files here are empty: an import that opened one would fail."""

import logging
from pathlib import Path

import pytest

from data_prep.corpora.avhubert import read_avhubert
from data_prep.rejection import Reason


def add_clip(root: Path, id: str, frames: object = 50, samples: object = 32000) -> str:
    """The files of a clip as AV-HuBERT's preparation lays them out, and its line of the table."""
    files = root / "video" / f"{id}.mp4", root / "audio" / f"{id}.wav"
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    return "\t".join([id, *map(str, files), str(frames), str(samples)])


def add_split(folder: Path, name: str, lines: dict[str, str], first: str = "/") -> None:
    """A table and its texts."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.tsv").write_text("".join(f"{line}\n" for line in [first, *lines]))
    (folder / f"{name}.wrd").write_text("".join(f"{text}\n" for text in lines.values()))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A tree with three splits, as lrs3_manifest.py leaves it."""
    data = tmp_path / "lrs3" / "433h_data"
    add_split(
        data,
        "train",
        {
            add_clip(data.parent, "trainval/talkB/00002"): "second",
            add_clip(data.parent, "short-pretrain/talkA/00001_0", 25, 16000): "It's the first",
        },
    )
    add_split(data, "valid", {add_clip(data.parent, "trainval/talkC/00003"): "third"})
    add_split(data, "test", {add_clip(data.parent, "test/talkD/00004"): "fourth"})
    return data


def only_problem(data: Path, split: str) -> tuple[str, Reason, str]:
    """Id, reason and detail of the one clip of a split that has a problem."""
    (clip,) = (clip for clip in read_avhubert(data) if clip.split == split and clip.problem)
    assert clip.problem is not None
    return clip.id, clip.problem.reason, clip.problem.detail


def test_clips_point_at_the_files_where_they_are(data: Path) -> None:
    clips = read_avhubert(data)
    assert [(clip.id, clip.text) for clip in clips] == [
        ("test/test/talkD/00004", "fourth"),
        ("train/short-pretrain/talkA/00001_0", "it's the first"),
        ("train/trainval/talkB/00002", "second"),
        ("validation/trainval/talkC/00003", "third"),
    ]
    assert [clip.split for clip in clips] == ["test", "train", "train", "validation"]
    first = clips[1]
    assert first.media == data.parent / "video" / "short-pretrain" / "talkA" / "00001_0.mp4"
    assert first.audio == data.parent / "audio" / "short-pretrain" / "talkA" / "00001_0.wav"
    assert (first.cropped_frames, first.seconds, first.speaker, first.problem) == (25, 1.0, "talkA", None)


def test_relative_paths_count_from_the_first_line(data: Path) -> None:
    line = "x\tvideo/test/talkD/00004.mp4\taudio/test/talkD/00004.wav\t50\t32000"
    for first in (str(data.parent), ".."):
        add_split(data, "test", {line: "fourth"}, first)
        clip = read_avhubert(data)[0]
        assert clip.problem is None
        assert clip.media.samefile(data.parent / "video" / "test" / "talkD" / "00004.mp4")
        assert clip.speaker is None


def test_a_moved_tree_is_found_by_its_new_folder(data: Path) -> None:
    old = data.parent
    new = old.rename(old.with_name("new"))
    moved = read_avhubert(new / "433h_data", (old, new))
    assert all(clip.problem is None for clip in moved)
    assert moved[0].media == new / "video" / "test" / "talkD" / "00004.mp4"
    lost = read_avhubert(new / "433h_data")
    assert {clip.problem and clip.problem.reason for clip in lost} == {Reason.MISSING_FILE}
    assert [clip.id for clip in lost] == [clip.id for clip in moved]
    assert lost[0].problem is not None
    assert "set `moved`" in lost[0].problem.detail


@pytest.mark.parametrize("kind", ["video", "audio"])
def test_a_missing_file_is_named(data: Path, kind: str) -> None:
    (file,) = (data.parent / kind / "test").rglob("*.*")
    file.unlink()
    id, reason, detail = only_problem(data, "test")
    assert (id, reason) == ("test/test/talkD/00004", Reason.MISSING_FILE)
    assert detail.startswith(f"{data / 'test.tsv'}:2: {file} does not exist")


@pytest.mark.parametrize("cells", [("{video}", "", "50", ""), ("{video}", "", "50", "0"), ("{video}", "50")])
def test_a_clip_may_have_no_sound(data: Path, cells: tuple[str, ...]) -> None:
    video = data.parent / "video" / "test" / "talkD" / "00004.mp4"
    add_split(data, "test", {"\t".join(("a", *cells)).format(video=video): "fourth"})
    clip = read_avhubert(data)[0]
    assert (clip.audio, clip.needs_audio, clip.seconds, clip.problem) == (None, False, 2.0, None)


@pytest.mark.parametrize(
    ("line", "detail"),
    [
        ("", "got 1 cells"),
        ("a\tVIDEO\tAUDIO\t50", "got 4 cells"),
        ("a\tVIDEO\tAUDIO\t50\t32000\tmore", "got 6 cells"),
        ("\tVIDEO\tAUDIO\t50\t32000", "expected an id"),
        ("a\t\tAUDIO\t50\t32000", "'' must be the path of a file"),
        ("a\t../x.mp4\tAUDIO\t50\t32000", "'../x.mp4' must be the path of a file inside"),
        ("a\tVIDEO\tAUDIO\tfifty\t32000", "expected a number of frames, at least 1, got 'fifty'"),
        ("a\tVIDEO\tAUDIO\t-1\t32000", "got '-1'"),
        # A separator that Python strips from a string, but does not take for space around a number.
        ("a\tVIDEO\tAUDIO\t\x1e0\t32000", "expected a number of frames"),
        ("a\tVIDEO\tAUDIO\t50\t-1", "expected a number of samples, at least 1, got '-1'"),
    ],
)
def test_a_bad_line_is_a_problem_and_the_texts_stay_in_order(data: Path, line: str, detail: str) -> None:
    old = add_clip(data.parent, "test/talkD/00004")
    _, video, audio, *_ = old.split("\t")
    line = line.replace("VIDEO", video).replace("AUDIO", audio)
    add_split(data, "test", {line: "bad", add_clip(data.parent, "test/talkD/00005"): "good"})
    id, reason, told = only_problem(data, "test")
    assert (id, reason) == ("test.tsv:2", Reason.BAD_LABEL)
    assert told.startswith(f"{data / 'test.tsv'}:2: ")
    assert detail in told
    (good,) = (clip for clip in read_avhubert(data) if clip.split == "test" and not clip.problem)
    assert (good.id, good.text) == ("test/test/talkD/00005", "good")


@pytest.mark.parametrize(("name", "number"), [("test.tsv", 2), ("test.wrd", 1)])
def test_a_line_that_is_not_utf8_is_named(data: Path, name: str, number: int) -> None:
    path = data / name
    path.write_bytes(path.read_bytes().replace(b"fourth", b"caf\xe9").replace(b"test/talkD/00004\t", b"caf\xe9\t"))
    id, reason, detail = only_problem(data, "test")
    assert (id, reason) == ("test.tsv:2", Reason.BAD_LABEL)
    assert detail.startswith(f"{path}:{number}: not UTF-8")


def test_unequally_long_files_are_refused(data: Path) -> None:
    (data / "train.wrd").write_text("second\n")
    with pytest.raises(ValueError, match=r"train\.tsv names 2 clips, .*train\.wrd has 1 lines"):
        read_avhubert(data)


@pytest.mark.parametrize("name", ["train.tsv", "train.wrd"])
def test_one_file_of_a_split_is_not_enough(data: Path, name: str) -> None:
    (data / name).unlink()
    with pytest.raises(ValueError, match=rf"{name}: no such file, but train\.tsv and train\.wrd belong together"):
        read_avhubert(data)


@pytest.mark.parametrize("content", ["", "a\t/b.mp4\t/b.wav\t50\t32000\n"])
def test_a_table_without_its_root_is_refused(data: Path, content: str) -> None:
    (data / "train.tsv").write_text(content)
    with pytest.raises(ValueError, match=r"train\.tsv:1: expected the root folder"):
        read_avhubert(data)


def test_a_root_that_is_not_utf8_is_refused(data: Path) -> None:
    (data / "test.tsv").write_bytes(b"/caf\xe9\na\n")
    with pytest.raises(ValueError, match=r"test\.tsv:1: not UTF-8"):
        read_avhubert(data)


def test_a_split_may_be_absent_but_not_all(data: Path, tmp_path: Path) -> None:
    for name in ("train.tsv", "train.wrd"):
        (data / name).unlink()
    assert {clip.split for clip in read_avhubert(data)} == {"validation", "test"}
    with pytest.raises(ValueError, match=r"expected one or more of train\.tsv with train\.wrd, valid\.tsv"):
        read_avhubert(tmp_path)


@pytest.mark.parametrize("samples", [32000 + 3201, 32000 - 3201])
def test_uneven_sound_is_kept_and_told(data: Path, samples: int, caplog: pytest.LogCaptureFixture) -> None:
    lines = {add_clip(data.parent, "test/a/1", 50, samples): "one", add_clip(data.parent, "test/a/2", 50, 35000): "two"}
    add_split(data, "test", lines)
    with caplog.at_level(logging.WARNING):
        clip = read_avhubert(data)[0]
    assert (clip.cropped_frames, clip.seconds, clip.problem) == (50, samples / 16000, None)
    assert "differ by more than 0.2 s in 1 of 2 clips" in caplog.text


def test_even_sound_needs_no_warning(data: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        read_avhubert(data)
    assert not caplog.records


def test_a_video_of_two_splits_stays_in_the_one_to_be_kept_apart(data: Path) -> None:
    add_split(data, "train", {add_clip(data.parent, "trainval/talkC/00003"): "third"})
    id, reason, detail = only_problem(data, "train")
    assert (id, reason) == ("train.tsv:2", Reason.DUPLICATE)
    assert f"already named by {data / 'valid.tsv'}:2" in detail


def test_an_id_of_two_videos_is_given_once(data: Path) -> None:
    other = add_clip(data.parent, "test/other/1").replace("test/other/1\t", "/test/talkD/00004\t", 1)
    add_split(data, "test", {add_clip(data.parent, "test/talkD/00004"): "fourth", other: "other"})
    assert only_problem(data, "test")[:2] == ("test.tsv:3", Reason.DUPLICATE)
