"""What a run shows while it trains: log lines with speeds and the time left, and a bar for whoever watches."""

import csv
import json
import re
from io import StringIO
from pathlib import Path

import pytest
from helpers_model import run_config, stage_values, write_corpus
from rich.console import Console

from omni_avsr.run import run

PROGRESS_LINE = re.compile(
    r"joint (?P<step>\d/4), (?P<left>[\d:]+) left: .+; lr \S+, \S+ s/step, (?P<clips>\S+) clips/s, "
    r"(?P<tokens>\S+) tokens/s, padding (?P<padding>\d+) %, (?P<tflops>\S+) TFLOPs, (?P<speed>\S+) TFLOPs/s"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("run")
    write_corpus(made / "corpus")
    return made


def test_progress_tells_speed_and_what_is_left(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", logger="omni_avsr"):
        run(run_config(folder, folder / "progress", {"joint": stage_values("joint", 4)}, log_every=2))
    messages = [record.getMessage() for record in caplog.records]
    assert any(message.startswith("stage 1 of 1, joint: ") and message.endswith("in 4 steps") for message in messages)
    found = [match for message in messages if (match := PROGRESS_LINE.fullmatch(message))]
    assert [match["step"] for match in found] == ["2/4", "4/4"]
    assert found[1]["left"] == "0:00:00"
    for match in found:
        assert float(match["tokens"]) > float(match["clips"]) > 0
        assert 0 <= int(match["padding"]) < 100
        assert float(match["speed"]) > 0
    record = json.loads((folder / "progress" / "stages" / "0-joint" / "record.json").read_text())
    computed = sum(sum(parts.values()) for parts in record["flops"].values())
    assert float(found[1]["tflops"]) == pytest.approx(computed / 1e12, rel=1e-3)
    assert float(found[0]["tflops"]) < float(found[1]["tflops"])
    (table,) = (folder / "progress").glob("stages/0-joint/csv/*/metrics.csv")
    with table.open() as file:
        logged = [row for row in csv.DictReader(file) if row["tflops/total"]]
    assert float(logged[-1]["tflops/total"]) == pytest.approx(computed / 1e12)
    llm = record["flops"]["forward"]["llm"] + record["flops"]["backward"]["llm"]
    assert float(logged[-1]["tflops/llm"]) == pytest.approx(llm / 1e12)


def test_whoever_watches_sees_a_bar_with_the_stages_place(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    screen = Console(force_terminal=True, width=120, file=StringIO())
    monkeypatch.setattr("omni_avsr.callbacks.get_console", lambda: screen)
    joint = stage_values("joint", 2)
    with caplog.at_level("INFO", logger="omni_avsr"):
        run(run_config(folder, folder / "bar", {"first": joint, "second": joint}))
    assert isinstance(screen.file, StringIO)
    shown = screen.file.getvalue()
    assert "stage 1 of 2, first" in shown
    assert "stage 2 of 2, second" in shown
    assert "2/2" in shown
    assert "TFLOPs" in shown
    assert any(record.getMessage().endswith("in 2 steps; then second") for record in caplog.records)
