"""``omni-avsr fit-scaling`` and ``omni-avsr plan`` as one calls them: files in, files and messages out."""

import json
import logging
import sys
from pathlib import Path

import pytest
from helpers_scaling import power_law, simulate

from omni_avsr.cli.main import main
from omni_avsr.scaling.points import POINTS_NAME, write_points
from omni_avsr.scaling.results import read_laws


@pytest.fixture(autouse=True)
def _wide_terminal_and_shown_log(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv("COLUMNS", "1000")  # rich wraps its lines at this width
    caplog.set_level(logging.INFO)


def call(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["omni-avsr", *map(str, arguments)])
    try:
        main()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def test_runs_to_laws_to_a_plan(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.chdir(tmp_path)
    write_points(tmp_path / "runs" / "1" / POINTS_NAME, simulate(power_law(0.5, 0.3, 0.05)))
    write_points(tmp_path / "more.jsonl", simulate(power_law(0.5, 0.3), levels=2, strategy="shared"))
    assert call(monkeypatch, "fit-scaling", "runs", "more.jsonl") == 0
    laws = read_laws(tmp_path / "scaling" / "laws.json")
    assert laws.origin["command"].startswith("omni-avsr fit-scaling runs")
    assert (tmp_path / "scaling" / "scaling.png").is_file()
    shown = capsys.readouterr().out
    exponent = laws.fits[0].exponents["flops"]
    assert f"C: {exponent.value:.3f} [{exponent.low:.3f}, {exponent.high:.3f}]" in shown
    assert "inside the interval" in caplog.text
    assert "no law of shared: 2 levels of compute" in caplog.text

    budget = ("--budget", "40GPU-hours", "--device-flops", "1e13", "--data", 10, "--output", "plan.json")
    assert call(monkeypatch, "plan", *budget) == 0
    shown = capsys.readouterr().out
    plan = json.loads((tmp_path / "plan.json").read_text())
    [option] = plan["options"]
    assert plan["flops"] == pytest.approx(40 * 3600 * 1e13 * 0.3)
    assert f"{100 * option['predicted']['low']:.1f} to {100 * option['predicted']['high']:.1f}" in shown
    assert [stage["stage"] for stage in option["stages"]] == ["encoders", "joint"]
    assert "assumed: 40 GPU-hours at 30% of 1e+13 FLOP/s" in caplog.text
    assert "shared is not compared: 2 levels of compute" in caplog.text


def test_points_that_tell_no_law_are_one_message_and_status_1(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    write_points(tmp_path / "points.jsonl", simulate(power_law(0.5, 0.3), levels=3))
    output = tmp_path / "out"
    assert call(monkeypatch, "fit-scaling", tmp_path / "points.jsonl", "--output", output) == 1
    assert caplog.messages == ["no law of hybrid: 3 levels of compute; a law takes 4 or more: run at further levels"]
    assert capsys.readouterr().out == ""
    assert not output.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("fit-scaling", "nowhere"), "nowhere: no such file or folder"),
        (("plan", "--budget", "3e18", "--data", "10"), "no such file; omni-avsr fit-scaling writes it"),
        (("plan", "--budget", "much", "--data", "10"), "--budget 'much': give FLOPs"),
        (("plan", "--budget", "4GPU-hours", "--data", "10"), "--device-flops"),
    ],
)
def test_what_cannot_be_read_is_one_message_and_status_1(
    arguments: tuple[str, ...],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert call(monkeypatch, *arguments) == 1
    [record] = caplog.records
    assert message in record.message
    assert list(tmp_path.iterdir()) == []
