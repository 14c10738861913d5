"""The text files of LRS2 and LRS3."""

from pathlib import Path

import pytest

from data_prep.corpora.lrs_text import read_lrs_text
from data_prep.rejection import ProblemError, Reason
from omni_avsr.types import Word

LRS2_MAIN = "Text:  WHEN YOU'RE COOKING CHIPS AT HOME\nConf:  4\n"
LRS3 = (
    "Text:  SO WE'RE {LAUGH} HERE \nConf:  5\nRef:   0af00UcTOSc\n\n"
    "FRAME \tX \tY \tW \tH \n000000 \t0.283 \t0.257 \t0.189 \t0.336 \n000001 \t0.284 \t0.257 \t0.189 \t0.336 \n\n"
    "WORD START END ASDSCORE\nSO 0.04 0.21 7.3\nWE'RE 0.21 0.5 6.1\n{LAUGH} 0.5 1.5 -0.2\nHERE 1.62 2.0 5\n"
)


def text_file(folder: Path, content: str | bytes) -> Path:
    path = folder / "00001.txt"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_a_text_without_tables_has_no_word_times(tmp_path: Path) -> None:
    label = read_lrs_text(text_file(tmp_path, LRS2_MAIN))
    assert (label.text, label.conf, label.words) == ("when you're cooking chips at home", 4, ())


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_all_tables_are_read_and_noises_vanish(tmp_path: Path, end: str) -> None:
    label = read_lrs_text(text_file(tmp_path, LRS3.replace("\n", end)))
    assert (label.text, label.conf) == ("so we're here", 5)
    assert label.words == (Word("so", 0.04, 0.21), Word("we're", 0.21, 0.5), Word("here", 1.62, 2.0))


def test_a_word_of_several_shares_its_time_by_letters(tmp_path: Path) -> None:
    table = "WORD START END ASDSCORE\nTWENTY-ONE 1.0 1.9 3.0\nYES 2.0 2.5 3.0\n"
    label = read_lrs_text(text_file(tmp_path, f"Text:  TWENTY-ONE YES\n{table}"))
    assert [word.text for word in label.words] == ["twenty", "one", "yes"]
    assert [word.start for word in label.words] == pytest.approx([1.0, 1.6, 2.0])
    assert [word.end for word in label.words] == pytest.approx([1.6, 1.9, 2.5])
    assert " ".join(word.text for word in label.words) == label.text


def test_a_number_becomes_as_many_words_as_it_is_spoken(tmp_path: Path) -> None:
    table = "WORD START END ASDSCORE\nIN 0.5 1.0 3.0\n1984 1.0 2.0 3.0\n"
    label = read_lrs_text(text_file(tmp_path, f"Text:  IN 1984\n{table}"))
    assert " ".join(word.text for word in label.words) == label.text
    assert (label.words[0], label.words[-1].end) == (Word("in", 0.5, 1.0), 2.0)
    assert all(first.end == second.start for first, second in zip(label.words, label.words[1:], strict=False))


def test_words_that_look_like_headers_are_words(tmp_path: Path) -> None:
    table = "WORD START END ASDSCORE\nWORD 0.1 0.2 1\nFRAME 0.2 0.3 1\nTEXT: 0.3 0.4 1\n"
    label = read_lrs_text(text_file(tmp_path, f"Text:  WORD START END TEXT: 5\nConf:  1\n\n{table}"))
    assert [word.text for word in label.words] == ["word", "frame", "text"]
    assert label.text.startswith("word start end text")


@pytest.mark.parametrize("conf", ["Conf:  high\n", "Conf:\n", "Conf:  ²\n", ""])
def test_a_missing_grade_is_none(tmp_path: Path, conf: str) -> None:
    assert read_lrs_text(text_file(tmp_path, f"Text:  A\n{conf}")).conf is None


@pytest.mark.parametrize("content", ["Text:  \nConf:  1\n", "Text:  {LAUGH}\n", "Text:\nWORD START END ASDSCORE\n"])
def test_an_empty_text_is_left_to_the_preparation(tmp_path: Path, content: str) -> None:
    label = read_lrs_text(text_file(tmp_path, content))
    assert (label.text, label.words) == ("", ())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"00001\.txt: expected one line 'Text:  ...', got 0"),
        (b"Conf:  4\n", "expected one line 'Text"),
        (b"HELLO\n", "expected one line 'Text"),
        (b"Text:  A\nText:  B\n", "got 2"),
        (b"Text:  A\nConf:  \xff\n", r"00001\.txt:2: not UTF-8"),
        (b"Text:  A\nWORD START END ASDSCORE\nA 0.1\n", r"00001\.txt:3: expected 'WORD START END ASDSCORE' in seconds"),
        (b"Text:  A\n\nWORD START END ASDSCORE\nA 0.1 0.2 1\nB x 0.3 1\n", r"00001\.txt:5: expected"),
        (b"Text:  A\nWORD START END ASDSCORE\nA 0.3 0.2 1\n", r"00001\.txt:3: expected"),
        (b"Text:  A\nWORD START END ASDSCORE\nA nan 0.2 1\n", r"00001\.txt:3: expected"),
        (b"Text:  A\nWORD START END ASDSCORE\nA 0.1 inf 1\n", r"00001\.txt:3: expected"),
        (b"Text:  A\nWORD START END ASDSCORE\nA -0.1 0.2 1\n", r"00001\.txt:3: expected"),
    ],
)
def test_a_broken_file_names_its_line(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(ProblemError, match=message) as caught:
        read_lrs_text(text_file(tmp_path, content))
    assert caught.value.problem.reason is Reason.BAD_LABEL
