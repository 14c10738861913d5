"""The table's columns and figures, its JSON, and pictures that show something."""

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from omni_avsr.metrics import Score, compare, score
from omni_avsr.report import (
    Report,
    plot_learning_curve,
    plot_wer_against_snr,
    plot_wer_against_tokens,
    read_curves,
    read_report,
    to_markdown,
    write_report,
)
from omni_avsr.types import Hypothesis, Modality, Task

COLUMNS = ["ASR 4", "ASR 16", "VSR 2", "VSR 5", "AVSR 4,2", "AVSR 4,5", "AVSR 16,2", "AVSR 16,5"]
FRAME_RATES = {Modality.AUDIO: 50.0, Modality.VIDEO: 25.0}


def decoded(column: str, num_wrong: int, **more) -> list[Hypothesis]:
    """Ten clips of ten words, ``num_wrong`` of the hundred words wrong."""
    task, rates = column.split()
    wrong = [i < num_wrong for i in range(100)]
    return [
        Hypothesis(
            str(i),
            Task(task.lower()),
            rates,
            " ".join("aaaaaaaaaa"),
            " ".join("xa"[not w] for w in wrong[i::10]),
            **more,
        )
        for i in range(10)
    ]


@pytest.fixture(scope="module")
def hypotheses() -> list[Hypothesis]:
    clean = itertools.chain.from_iterable(decoded(column, n) for n, column in reversed(list(enumerate(COLUMNS))))
    heard = [column for column in COLUMNS if not column.startswith("VSR")]
    noisy = [h for snr in (-5.0, 0.0, 5.0) for c in heard for h in decoded(c, int(30 - 4 * snr), snr_db=snr)]
    return [*clean, *noisy, *decoded("AVSR 4,2", 90, snr_db=-5.0, condition="swapped")]


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
    assert "- normaliser version: 1" in markdown


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


def colored_share(path: Path) -> float:
    """Share of pixels that are clearly coloured: lines and markers, not paper, text or grid."""
    pixels = np.asarray(Image.open(path).convert("RGB")).astype(int)
    assert pixels.shape[0] > 400
    assert pixels.shape[1] > 600
    return float(np.mean(pixels.max(-1) - pixels.min(-1) > 60))


def test_plots_show_lines_and_follow_the_scores(tmp_path: Path, scores: list[Score]) -> None:
    plot_wer_against_tokens(tmp_path / "tokens.png", scores, FRAME_RATES, title="clean")
    plot_wer_against_tokens(tmp_path / "audio.png", [s for s in scores if s.setting.task is Task.ASR], FRAME_RATES)
    plot_wer_against_snr(tmp_path / "snr.png", scores)
    shares = {path.stem: colored_share(path) for path in tmp_path.iterdir()}
    assert set(shares) == {"tokens", "audio", "snr"}
    assert min(shares.values()) > 0.0005
    assert shares["tokens"] > 1.5 * shares["audio"]


def test_points_stand_at_their_tokens_per_second(
    tmp_path: Path, scores: list[Score], monkeypatch: pytest.MonkeyPatch
) -> None:
    figures = []
    monkeypatch.setattr("omni_avsr.report._save", lambda path, figure: figures.append(figure))
    plot_wer_against_tokens(tmp_path / "unused.png", scores, FRAME_RATES)
    (axes,) = figures[0].axes
    lines = {c.get_label(): c.lines[0].get_xydata() for c in axes.containers}
    assert list(lines) == ["ASR", "VSR", "AVSR"]
    np.testing.assert_allclose(lines["AVSR"], [(8.125, 7), (15.625, 6), (17.5, 5), (25, 4)])
    np.testing.assert_allclose(lines["ASR"], [(3.125, 1), (12.5, 0)])


def test_clean_stands_right_of_the_highest_snr_and_unheard_noise_is_a_level_line(
    tmp_path: Path, scores: list[Score], monkeypatch: pytest.MonkeyPatch
) -> None:
    figures = []
    monkeypatch.setattr("omni_avsr.report._save", lambda path, figure: figures.append(figure))
    plot_wer_against_snr(tmp_path / "unused.png", scores)
    (axes,) = figures[0].axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ["-5", "0", "5", "clean"]
    assert axes.get_xticks()[-1] > 5
    assert [text.get_text() for text in axes.get_legend().get_texts()] == COLUMNS
    points = next(c for c in axes.containers if c.get_label() == "ASR 16").lines[0].get_xydata()
    assert sorted(points[:, 1].round(6)) == [1, 10, 30, 50]
    assert points[np.argmax(points[:, 0]), 1] == pytest.approx(1)
    level = next(line for line in axes.lines if line.get_label() == "VSR 5")
    assert set(level.get_ydata()) == {3.0}


def test_nothing_to_plot_is_an_error(tmp_path: Path, scores: list[Score]) -> None:
    with pytest.raises(ValueError, match=r"no scores at SNR 2\.5"):
        plot_wer_against_tokens(tmp_path / "x.png", scores, FRAME_RATES, snr_db=2.5)
    with pytest.raises(ValueError, match="no scores in noise"):
        plot_wer_against_snr(tmp_path / "x.png", [s for s in scores if s.setting.snr_db is None])
    assert list(tmp_path.iterdir()) == []


def test_wer_over_one_still_plots(tmp_path: Path, scores: list[Score]) -> None:
    plot_wer_against_snr(tmp_path / "x.png", [replace(s, wer=2.5) for s in scores])
    assert colored_share(tmp_path / "x.png") > 0.0005


def test_learning_curve_reads_sparse_logs_and_later_rows_win(tmp_path: Path) -> None:
    first, second = tmp_path / "first.csv", tmp_path / "second.csv"
    first.write_text("step,loss,wer\n0,3.0,\n10,2.0,\n10,,0.5\n20,9.0,\n")
    second.write_text("epoch,loss,step,wer\n1,1.5,20,\n1,,30,0.25\n")
    records = read_curves([first, second])
    assert records == [
        {"step": 0, "loss": 3.0},
        {"step": 10, "loss": 2.0, "wer": 0.5},
        {"step": 20, "loss": 1.5, "epoch": 1},
        {"step": 30, "epoch": 1, "wer": 0.25},
    ]
    plot_learning_curve(tmp_path / "curve.png", records)
    assert colored_share(tmp_path / "curve.png") > 0.0005
    with pytest.raises(ValueError, match="no record has 'cer'; there are: epoch, loss, step, wer"):
        plot_learning_curve(tmp_path / "other.png", records, error_rates=["cer"])


def test_long_loss_gets_a_running_mean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures = []
    monkeypatch.setattr("omni_avsr.report._save", lambda path, figure: figures.append(figure))
    records = [{"step": step, "loss": 1.0 + (-1) ** step, "wer": 0.5} for step in range(100)]
    plot_learning_curve(tmp_path / "unused.png", records)
    raw, mean = (line.get_ydata() for line in figures[0].axes[0].lines)
    assert np.ptp(raw) == 2
    np.testing.assert_allclose(mean, 1)


def test_log_without_steps_is_named(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("loss\n1.0\n")
    with pytest.raises(ValueError, match=r"log\.csv:2"):
        read_curves([path])
