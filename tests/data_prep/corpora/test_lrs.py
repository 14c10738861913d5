"""Reading LRS2 and LRS3 in their own layouts."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pytest

from data_prep.corpora.lrs import LRS3_VALIDATION_SHARE, read_lrs2, read_lrs3
from data_prep.corpora.source import SourceClip
from data_prep.corpora.splits import place_of
from data_prep.rejection import Reason

TALKS = [f"talk{number}" for number in range(400)]
HELD = sorted(talk for talk in TALKS if place_of(talk) < LRS3_VALIDATION_SHARE)
KEPT = sorted(set(TALKS) - set(HELD))


def clip(folder: Path, name: str, text: str = "Text:  YES NO\nConf:  4\n") -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".mp4").touch()
    path.with_suffix(".txt").write_text(text)


def timed(words: Iterable[tuple[str, float, float]], text: str | None = None) -> str:
    rows = [(word, start, end) for word, start, end in words]
    table = "".join(f"{word} {start} {end} 1.0\n" for word, start, end in rows)
    text = text if text is not None else " ".join(word for word, _, _ in rows)
    return f"Text:  {text}\nConf:  4\n\nWORD START END ASDSCORE\n{table}"


LONG = timed((f"W{chr(65 + number % 26)}", number * 0.5, number * 0.5 + 0.4) for number in range(80))


def splits(clips: list[SourceClip]) -> dict[str, str]:
    return {clip.id: clip.split for clip in clips}


def lrs2(folder: Path) -> Path:
    for name in ("1/00001", "1/00002", "2/00001", "3/00001", "4/00001"):
        clip(folder, f"main/{name}")
    for name in ("1/00001", "2/00001", "3/00001"):
        clip(folder, f"pretrain/{name}")
    (folder / "train.txt").write_text("1/00001\n1/00002\n")
    (folder / "val.txt").write_text("2/00001\n")
    (folder / "test.txt").write_text("3/00001 NF\n")
    return folder


def test_lrs3_takes_validation_from_talks_of_trainval(tmp_path: Path) -> None:
    clip(tmp_path, "test/unseen/50001")
    for talk in (HELD[0], HELD[1], KEPT[0]):
        clip(tmp_path, f"trainval/{talk}/50001")
        clip(tmp_path, f"pretrain/{talk}/00001")
    clip(tmp_path, f"pretrain/{HELD[2]}/00001")
    clip(tmp_path, "pretrain/unseen/00001")
    clips = read_lrs3(tmp_path)
    assert splits(clips) == {
        f"pretrain/{HELD[0]}/00001": "held_out",
        f"pretrain/{HELD[1]}/00001": "held_out",
        f"pretrain/{HELD[2]}/00001": "held_out",
        f"pretrain/{KEPT[0]}/00001": "train",
        "pretrain/unseen/00001": "held_out",
        "test/unseen/50001": "test",
        f"trainval/{HELD[0]}/50001": "validation",
        f"trainval/{HELD[1]}/50001": "validation",
        f"trainval/{KEPT[0]}/50001": "train",
    }
    assert [clip.id for clip in clips] == sorted(clip.id for clip in clips)
    assert all(clip.speaker == clip.id.split("/")[1] and clip.needs_video and clip.text == "yes no" for clip in clips)
    assert all(clip.media == tmp_path / f"{clip.id}.mp4" for clip in clips)


def test_the_share_of_lrs3_validation_is_a_fortieth_of_the_talks() -> None:
    assert sum(place_of(f"id{number}") < LRS3_VALIDATION_SHARE for number in range(4000)) == pytest.approx(100, abs=25)


def test_a_small_lrs3_has_a_validation_talk_all_the_same(tmp_path: Path) -> None:
    for talk in KEPT[:3]:
        clip(tmp_path, f"trainval/{talk}/50001")
        clip(tmp_path, f"pretrain/{talk}/00001")
    lowest = min(KEPT[:3], key=place_of)
    counts = Counter(clip.split for clip in read_lrs3(tmp_path))
    assert counts == {"train": 4, "validation": 1, "held_out": 1}
    assert splits(read_lrs3(tmp_path))[f"pretrain/{lowest}/00001"] == "held_out"


def test_long_pretrain_clips_become_pieces_with_their_own_word_times(tmp_path: Path) -> None:
    clip(tmp_path, f"pretrain/{KEPT[0]}/00001", LONG)
    clip(tmp_path, f"trainval/{KEPT[0]}/50001", LONG)
    *pieces, whole = read_lrs3(tmp_path)
    assert [piece.id for piece in pieces] == [f"pretrain/{KEPT[0]}/00001/{number:03d}" for number in range(3)]
    assert " ".join(piece.text for piece in pieces) == whole.text
    for piece in pieces:
        assert piece.span is not None
        assert piece.span[1] - piece.span[0] <= 16
        assert " ".join(word.text for word in piece.words) == piece.text
        assert piece.words[-1].end <= piece.span[1] - piece.span[0]
        assert piece.media == tmp_path / "pretrain" / KEPT[0] / "00001.mp4"
    assert (whole.span, len(whole.words)) == (None, 80)


def test_the_longest_piece_may_be_chosen(tmp_path: Path) -> None:
    clip(tmp_path, f"pretrain/{KEPT[0]}/00001", LONG)
    clips = read_lrs3(tmp_path, max_seconds=4.0)
    assert len(clips) >= 10
    assert all(clip.span is not None and clip.span[1] - clip.span[0] <= 4 for clip in clips)


def test_short_pretrain_clips_and_those_without_times_stay_whole(tmp_path: Path) -> None:
    clip(tmp_path, f"pretrain/{KEPT[0]}/00001", timed([("YES", 0.5, 1.0), ("{LAUGH}", 1.0, 2.0), ("NO", 2.0, 2.5)]))
    clip(tmp_path, f"pretrain/{KEPT[0]}/00002")
    timed_clip, untimed = read_lrs3(tmp_path)
    assert (timed_clip.id, timed_clip.text) == (f"pretrain/{KEPT[0]}/00001", "yes no")
    assert timed_clip.span == (0.0, 16.0), "how long the file is, nobody knows yet"
    assert [(word.text, word.start) for word in timed_clip.words] == [("yes", 0.5), ("no", 2.0)]
    assert (untimed.id, untimed.span, untimed.words) == (f"pretrain/{KEPT[0]}/00002", None, ())


def test_a_late_beginning_is_cut_off_too(tmp_path: Path) -> None:
    clip(tmp_path, f"pretrain/{KEPT[0]}/00001", timed([("YES", 30.0, 31.0)]))
    (piece,) = read_lrs3(tmp_path)
    assert (piece.id, piece.span) == (f"pretrain/{KEPT[0]}/00001/000", (29.0, 32.0))


def test_word_times_of_another_text_are_not_kept(tmp_path: Path) -> None:
    clip(tmp_path, f"trainval/{KEPT[0]}/00001", timed([("YES", 0.5, 1.0)], "YES NO"))
    (found,) = read_lrs3(tmp_path)
    assert (found.text, found.words) == ("yes no", ())


def test_a_word_longer_than_a_piece_costs_only_its_piece(tmp_path: Path) -> None:
    words = [("YES", 0.0, 5.0), ("ER", 6.0, 23.0), ("NO", 23.0, 24.0)]
    clip(tmp_path, f"pretrain/{KEPT[0]}/00001", timed(words))
    first, long, last = read_lrs3(tmp_path)
    assert (first.text, last.text, first.problem, last.problem) == ("yes", "no", None, None)
    assert long.problem is not None
    assert long.problem.reason is Reason.LONG_WORD
    assert "00001.txt: 'er' lasts 17.0 s, a piece at most 16 s" in long.problem.detail


def test_a_bad_or_missing_file_costs_only_its_clip(tmp_path: Path) -> None:
    for number in range(1, 5):
        clip(tmp_path, f"pretrain/{KEPT[0]}/0000{number}")
    folder = tmp_path / "pretrain" / KEPT[0]
    (folder / "00001.txt").unlink()
    (folder / "00002.mp4").unlink()
    (folder / "00003.txt").write_bytes("Text:  YES\n".encode("utf-16"))
    found = {clip.id[-5:]: clip.problem for clip in read_lrs3(tmp_path)}
    assert {name: problem.reason for name, problem in found.items() if problem} == {
        "00001": Reason.MISSING_FILE,
        "00002": Reason.MISSING_FILE,
        "00003": Reason.BAD_LABEL,
    }
    assert found["00001"] is not None
    assert "00001.txt: no such file" in found["00001"].detail


def test_lrs2_has_the_splits_of_its_lists(tmp_path: Path) -> None:
    clips = read_lrs2(lrs2(tmp_path))
    assert splits(clips) == {
        "main/1/00001": "train",
        "main/1/00002": "train",
        "main/2/00001": "validation",
        "main/3/00001": "test",
        "main/4/00001": "held_out",
        "pretrain/1/00001": "train",
        "pretrain/2/00001": "held_out",
        "pretrain/3/00001": "held_out",
    }
    assert all(clip.problem is None and clip.speaker is None and clip.needs_video for clip in clips)


def test_lrs2_may_be_unpacked_beside_its_lists(tmp_path: Path) -> None:
    lrs2(tmp_path / "mvlrs_v1")
    for name in ("train.txt", "val.txt", "test.txt"):
        (tmp_path / "mvlrs_v1" / name).rename(tmp_path / name)
    expected = splits(read_lrs2(tmp_path))
    assert len(expected) == 8
    assert splits(read_lrs2(tmp_path / "mvlrs_v1")) == expected


def test_lrs2_lists_tell_of_missing_clips_and_bad_lines_cost_only_themselves(tmp_path: Path) -> None:
    lrs2(tmp_path)
    (tmp_path / "val.txt").write_bytes(b"2/00001\n\n../x/00001\n2/\xff\n00002\n2/00009\n")
    (tmp_path / "pretrain.txt").write_text("1/00001\n1/00007\n")
    found = {clip.id: clip.problem.reason for clip in read_lrs2(tmp_path) if clip.problem}
    assert found == {
        "main/2/00009": Reason.MISSING_FILE,
        "pretrain/1/00007": Reason.MISSING_FILE,
        "val.txt:3": Reason.BAD_LABEL,
        "val.txt:4": Reason.BAD_LABEL,
        "val.txt:5": Reason.BAD_LABEL,
    }


def test_lrs2_pretrain_is_cut(tmp_path: Path) -> None:
    clip(tmp_path, "pretrain/1/00001", LONG)
    clips = read_lrs2(tmp_path)
    assert [clip.id for clip in clips] == [f"pretrain/1/00001/00{number}" for number in range(3)]
    assert all(clip.split == "train" for clip in clips)


@pytest.mark.parametrize("name", ["train.txt", "val.txt", "test.txt"])
def test_lrs2_without_a_list_is_an_error(tmp_path: Path, name: str) -> None:
    (lrs2(tmp_path) / name).unlink()
    with pytest.raises(ValueError, match=rf"{name}: no such file, but train.txt, val.txt, test.txt tell the splits"):
        read_lrs2(tmp_path)


@pytest.mark.parametrize("read", [read_lrs2, read_lrs3])
def test_another_layout_is_an_error_that_tells_what_was_expected(tmp_path: Path, read) -> None:
    clip(tmp_path, "videos/1/00001")
    with pytest.raises(ValueError, match=r"no clips of LRS.; expected <\w+>/<clip>\.mp4 and \.txt in"):
        read(tmp_path)
