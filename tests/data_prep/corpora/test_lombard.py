"""Reading Lombard GRID: sentences from names, views and sound, splits by talkers."""

from collections import Counter
from pathlib import Path

import pytest

from data_prep.corpora.lombard import read_lombard_grid, sentence_of
from data_prep.rejection import Reason


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        ("bbbm4a", "bin blue by m four again"),
        ("lgizzn", "lay green in z zero now"),
        ("PRWA9P", "place red with a nine please"),
        ("swax1s", "set white at x one soon"),
        ("gbszs", None),
        ("bbbw4a", None),
        ("bbbm4ax", None),
        ("#sil", None),
    ],
)
def test_a_code_is_a_sentence_of_grids_grammar(code: str, sentence: str | None) -> None:
    assert sentence_of(code) == sentence


def test_a_view_has_the_sound_of_its_audio_file(tmp_path: Path) -> None:
    touch(tmp_path, *(f"lombardgrid_{part}/lombardgrid/{part}/s2_l_bbim3a.mov" for part in ("front", "side")))
    touch(tmp_path, "lombardgrid_audio/lombardgrid/audio/s2_l_bbim3a.wav", "alignment/s2_l_bbim3a.json")
    for view in ("front", "side"):
        (clip,) = read_lombard_grid(tmp_path, view)
        assert (clip.id, clip.speaker, clip.text) == ("s2/s2_l_bbim3a", "s2", "bin blue in m three again")
        assert clip.media == tmp_path / f"lombardgrid_{view}/lombardgrid/{view}/s2_l_bbim3a.mov"
        assert clip.audio == tmp_path / "lombardgrid_audio/lombardgrid/audio/s2_l_bbim3a.wav"
        assert (clip.needs_audio, clip.needs_video, clip.problem) == (True, True, None)


def test_a_clip_without_the_view_is_audio_alone(tmp_path: Path) -> None:
    touch(tmp_path, "front/s2_p_bbim3a.mov", "audio/s2_p_bbim3a.wav", "audio/s2_l_bbim3a.wav", "side/s2_l_bbim3a.mov")
    lombard, plain = read_lombard_grid(tmp_path)
    assert (lombard.media, lombard.audio) == (tmp_path / "audio" / "s2_l_bbim3a.wav", None)
    assert (lombard.needs_video, plain.needs_video) == (False, True)


def test_another_view_alone_is_a_missing_file(tmp_path: Path) -> None:
    touch(tmp_path, "front/s2_p_bbim3a.mov", "side/s2_l_bbim3a.mov")
    lombard, plain = read_lombard_grid(tmp_path)
    assert plain.problem is None
    assert lombard.problem is not None
    assert lombard.problem.reason is Reason.MISSING_FILE


def test_a_wrong_sentence_is_the_one_that_was_read(tmp_path: Path) -> None:
    touch(tmp_path, "audio/s46_p_gbszs_WRONG_sgbszs.wav", "audio/s27_l_bah2s_WRONG_#sil.wav", "audio/calibration.wav")
    clips = {clip.id: clip for clip in read_lombard_grid(tmp_path)}
    assert clips["s46/s46_p_gbszs_WRONG_sgbszs"].text == "set green by s zero soon"
    for name in ("s27/s27_l_bah2s_WRONG_#sil", "calibration"):
        problem = clips[name].problem
        assert problem is not None
        assert problem.reason is Reason.BAD_LABEL


def test_talkers_are_split_by_the_last_digit(tmp_path: Path) -> None:
    touch(tmp_path, *(f"audio/s{talker}_l_bbim3a.wav" for talker in range(2, 56)))
    clips = read_lombard_grid(tmp_path)
    assert {clip.speaker for clip in clips if clip.split == "test"} == {"s10", "s20", "s30", "s40", "s50"}
    assert {clip.speaker for clip in clips if clip.split == "validation"} == {f"s{n}" for n in range(5, 56, 10)}
    assert sum(clip.split == "train" for clip in clips) == 43


def test_a_table_is_used_where_it_is(tmp_path: Path) -> None:
    touch(tmp_path, "s2/s2_l_bbim3a.flac", "s2/s2_l_bbim4a.flac")
    (tmp_path / "transcripts.tsv").write_text("file\ttext\tsplit\ns2/s2_l_bbim3a.flac\tbin\ttest\n")
    (clip,) = read_lombard_grid(tmp_path)
    assert (clip.id, clip.text, clip.split) == ("s2/s2_l_bbim3a", "bin", "test")


@pytest.mark.parametrize("names", [(), ("audio/calibration.wav",), ("a.txt",)])
def test_a_folder_without_sentences_is_an_error(tmp_path: Path, names: tuple[str, ...]) -> None:
    touch(tmp_path, *names)
    with pytest.raises(ValueError, match="no clips of Lombard GRID; expected names like"):
        read_lombard_grid(tmp_path)


def test_the_shared_talkers_are_read(shared: Path) -> None:
    clips = read_lombard_grid(shared / "data" / "lombard_grid")
    counts = Counter(clip.split for clip in clips)
    assert (counts["test"], counts["train"] + counts["validation"]) == (80, 79)
    assert counts["validation"] >= 1
    assert all(clip.problem is None and clip.text == sentence_of(clip.id[-6:]) for clip in clips)
