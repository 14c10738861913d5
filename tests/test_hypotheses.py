"""The file of hypotheses: strict reading, torn lines, appending after a kill."""

import logging
from dataclasses import replace
from pathlib import Path

import pytest

from omni_avsr.hypotheses import append_hypothesis, read_hypotheses, resume_hypotheses, write_hypotheses
from omni_avsr.types import Hypothesis, Task

HYPOTHESES = [
    Hypothesis(
        "a",
        Task.ASR,
        "4",
        'caf\u00e9 \u2028 "x"',
        "cafe\n",
        split="test",
        speaker="s1",
        snr_db=-5.0,
        condition="swapped",
    ),
    Hypothesis("b", Task.AVSR, "4,2", "", ""),
]


def test_hypotheses_survive_the_file(tmp_path: Path) -> None:
    path = tmp_path / "out" / "hypotheses.jsonl"
    write_hypotheses(path, HYPOTHESES)
    assert read_hypotheses(path) == HYPOTHESES
    assert len(path.read_bytes().split(b"\n")) == 3
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("{}", "id: Field required"),
        ('{"id": "a", "task": "tts", "rates": "4", "reference": "", "text": ""}', "task: Input should be"),
        ('{"id": "a", "task": "asr", "rates": 4, "reference": "", "text": ""}', "rates: Input should be"),
        ('{"id": "a", "task": "asr", "rates": "4", "reference": "", "text": "", "wer": 1}', "wer: Unexpected"),
        ('{"id": "a",', "Invalid JSON"),
    ],
)
def test_bad_line_is_named_by_file_and_number(tmp_path: Path, line: str, problem: str) -> None:
    path = tmp_path / "hypotheses.jsonl"
    write_hypotheses(path, HYPOTHESES)
    path.write_bytes(path.read_bytes() + line.encode() + b"\n")
    for drop_torn_line in (False, True):  # a whole line is never taken for a torn one
        with pytest.raises(ValueError, match=rf"hypotheses\.jsonl:3: not a hypothesis: {problem}"):
            read_hypotheses(path, drop_torn_line=drop_torn_line)


def test_torn_last_line_is_dropped_and_appending_goes_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "hypotheses.jsonl"
    write_hypotheses(path, [HYPOTHESES[1], HYPOTHESES[0]])
    whole = path.read_bytes()
    second_line = whole.index(b"\n") + 1
    inside_a_character = whole.index("\u00e9".encode()) + 1
    for end in (second_line + 1, inside_a_character, len(whole) - 2):
        path.write_bytes(whole[:end])
        with pytest.raises(ValueError, match=r"hypotheses\.jsonl:2"):
            read_hypotheses(path)
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            assert resume_hypotheses(path) == [HYPOTHESES[1]]
        assert "hypotheses.jsonl:2" in caplog.text
        with path.open("ab") as file:
            append_hypothesis(file, HYPOTHESES[0])
        assert path.read_bytes() == whole


def test_last_line_that_lacks_only_its_end_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "hypotheses.jsonl"
    write_hypotheses(path, HYPOTHESES)
    path.write_bytes(path.read_bytes()[:-1])
    assert resume_hypotheses(path) == HYPOTHESES
    with path.open("ab") as file:
        append_hypothesis(file, replace(HYPOTHESES[0], id="c"))
    assert [h.id for h in read_hypotheses(path)] == ["a", "b", "c"]


def test_wrong_last_line_is_not_taken_for_a_torn_one(tmp_path: Path) -> None:
    path = tmp_path / "hypotheses.jsonl"
    path.write_text('{"id": "a", "task": "tts", "rates": "4", "reference": "", "text": ""}')
    with pytest.raises(ValueError, match=r"hypotheses\.jsonl:1: not a hypothesis: task"):
        resume_hypotheses(path)


def test_nothing_to_resume_without_a_file(tmp_path: Path) -> None:
    assert resume_hypotheses(tmp_path / "none.jsonl") == []


def test_appended_line_is_on_disk_before_the_file_is_closed(tmp_path: Path) -> None:
    path = tmp_path / "hypotheses.jsonl"
    with path.open("ab") as file:
        for number, one in enumerate(HYPOTHESES, start=1):
            append_hypothesis(file, one)
            assert read_hypotheses(path) == HYPOTHESES[:number]
