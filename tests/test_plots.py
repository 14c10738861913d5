"""Pictures that show something, and points that stand where they should."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers_scores import COLUMNS, evaluation
from PIL import Image

from omni_avsr.metrics import Score, score
from omni_avsr.plots import plot_learning_curve, plot_wer_against_snr, plot_wer_against_tokens, read_curves
from omni_avsr.types import Modality, Task

FRAME_RATES = {Modality.AUDIO: 50.0, Modality.VIDEO: 25.0}


@pytest.fixture(scope="module")
def scores() -> list[Score]:
    return score(evaluation(), seed=0, num_resamples=200)


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
    monkeypatch.setattr("omni_avsr.plots.save_figure", lambda path, figure: figures.append(figure))
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
    monkeypatch.setattr("omni_avsr.plots.save_figure", lambda path, figure: figures.append(figure))
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
    monkeypatch.setattr("omni_avsr.plots.save_figure", lambda path, figure: figures.append(figure))
    records = [{"step": step, "loss": 1.0 + (-1) ** step, "wer": 0.5} for step in range(100)]
    plot_learning_curve(tmp_path / "unused.png", records)
    raw, mean = (line.get_ydata() for line in figures[0].axes[0].lines)
    assert np.ptp(raw) == 2
    np.testing.assert_allclose(mean, 1)


def test_a_curve_without_error_rates_has_one_panel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures = []
    monkeypatch.setattr("omni_avsr.plots.save_figure", lambda path, figure: figures.append(figure))
    plot_learning_curve(tmp_path / "unused.png", [{"step": 0, "loss": 1.0}, {"step": 1, "loss": 0.5}], error_rates=[])
    [axes] = figures[0].axes
    assert axes.get_xlabel() == "training step"
    assert len(axes.lines) == 1


def test_log_without_steps_is_named(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("loss\n1.0\n")
    with pytest.raises(ValueError, match=r"log\.csv:2"):
        read_curves([path])
