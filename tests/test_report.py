"""The table's columns and figures, and its JSON."""

from pathlib import Path

import pytest
from helpers_scores import COLUMNS, evaluation

from omni_avsr.metrics import Score, compare, score
from omni_avsr.normalize import NORMALIZER_VERSION
from omni_avsr.report import Report, read_report, to_markdown, write_report
from omni_avsr.types import Hypothesis


@pytest.fixture(scope="module")
def hypotheses() -> list[Hypothesis]:
    return evaluation()


@pytest.fixture(scope="module")
def scores(hypotheses: list[Hypothesis]) -> list[Score]:
    return score(hypotheses, seed=0, num_resamples=200)


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def block(markdown: str, title: str) -> list[list[str]]:
    lines = markdown.split(f"## {title}\n\n")[1].split("\n\n")[0].splitlines()
    return [cells(line) for line in lines]


def test_table_has_the_papers_columns_in_order_with_rates_intervals_and_average(scores: list[Score]) -> None:
    header, _, words, characters, clips, counts = block(to_markdown(Report({"grid": scores[::-1]})), "grid, clean")
    assert header == ["", *COLUMNS, "Avg"]
    assert words[0] == "WER"
    assert [cell.split()[0] for cell in words[1:]] == ["0.0", "1.0", "2.0", "3.0", "4.0", "5.0", "6.0", "7.0", "3.5"]
    last = scores[7].wer_interval
    assert words[8] == f"7.0 [{100 * last.low:.1f}, {100 * last.high:.1f}]"
    assert characters[8].split()[0] == f"{100 * 7 / 190:.1f}"
    assert clips[1:9] == ["10"] * 8
    assert counts[1:9] == ["100"] * 8


def test_each_snr_and_condition_is_a_block_of_what_was_scored_there(scores: list[Score]) -> None:
    markdown = to_markdown(Report({"grid": scores, "other": scores[:2]}, metadata={"commit": "0123abc"}))
    titles = [line[3:] for line in markdown.splitlines() if line.startswith("## ")]
    assert titles == [
        "grid, clean",
        "grid, 5 dB SNR",
        "grid, 0 dB SNR",
        "grid, -5 dB SNR",
        "grid, -5 dB SNR, swapped",
        "other, clean",
    ]
    assert block(markdown, "grid, 0 dB SNR")[0] == ["", *(c for c in COLUMNS if not c.startswith("VSR")), "Avg"]
    assert block(markdown, "grid, -5 dB SNR, swapped")[0] == ["", "AVSR 4,2", "Avg"]
    assert "- commit: 0123abc" in markdown
    assert f"- normaliser version: {NORMALIZER_VERSION}" in markdown


def test_differences_are_signed_points_and_name_what_differs(hypotheses: list[Hypothesis], scores: list[Score]) -> None:
    report = Report({"grid": scores}, {"grid": compare(hypotheses, seed=0, num_resamples=200)})
    rows = {(row[0], row[1]): row[2] for row in block(to_markdown(report), "grid, paired differences in WER")[2:]}
    assert rows["clean", "AVSR 4,2 minus ASR 4"].startswith("+4.0 [")
    assert rows["-5 dB SNR", "AVSR 16,5 minus VSR 5 clean"].startswith("+47.0 [")
    assert rows["-5 dB SNR, swapped", "AVSR 4,2 minus AVSR 4,2 matched"].startswith("+40.0 [")


def test_report_survives_its_file(tmp_path: Path, hypotheses: list[Hypothesis], scores: list[Score]) -> None:
    metadata = {"commit": "0123abc", "seed": 7, "command": ["evaluate", "data=grid"], "domain": None}
    report = Report({"grid": scores}, {"grid": compare(hypotheses, seed=0, num_resamples=50)}, metadata)
    write_report(tmp_path, report)
    assert read_report(tmp_path / "table.json") == report
    assert (tmp_path / "table.md").read_text() == to_markdown(report)


def test_file_that_is_no_report_is_named(tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    path.write_text('{"scores": {"grid": [{"wer": 1}]}}')
    with pytest.raises(ValueError, match=r"table\.json is not a report: scores\.grid\.0\.setting"):
        read_report(path)
