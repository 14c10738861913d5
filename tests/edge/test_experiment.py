"""The experiment that holds the ledger against measured peaks: what it runs, and what it makes of the lines."""

import importlib
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from helpers_model import model_values

from omni_avsr.config import ModelConfig, from_mapping, to_mapping
from omni_avsr.edge.ledger import MemoryConstants, in_format, memory_ledger
from omni_avsr.shapes import shaped_model

FOLDER = Path(__file__).parents[2] / "experiments" / "004-edge"
DEVICE = MemoryConstants(libraries=800 << 20, overhead=60 << 20, scale=1.3)


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("ledger")


def test_two_settings_are_fitted_and_the_others_vary_what_there_is(script: ModuleType) -> None:
    names = [setting.name for setting in script.SETTINGS]
    assert len(set(names)) == len(names)
    assert sum(setting.is_fitted for setting in script.SETTINGS) == 2
    foretold = [setting for setting in script.SETTINGS if not setting.is_fitted]
    assert len(foretold) >= 6
    assert len({setting.weights for setting in foretold}) == 4
    assert len({setting.request.rates for setting in foretold}) >= 3
    assert len({setting.request.seconds for setting in foretold}) == 3


def test_lines_become_a_table_and_a_plot(script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = model_values(tmp_path, compression={"audio_rates": [4, 16], "video_rates": [2, 5]})
    values["video_encoder"] = {"kind": "compact_video"}
    config = from_mapping(ModelConfig, values)
    monkeypatch.setattr(script, "RESULTS", tmp_path)
    outline = shaped_model(config, 0, "meta")
    lines: dict[str, Any] = {}
    for setting in script.SETTINGS:
        if setting.wide_encoders:
            continue
        ledger = memory_ledger(outline, *in_format(setting.weights, config.llm))
        killed = setting.name == "float32"
        # One setting is 5 % more than the ledger gives.
        peak = round(ledger.transcribing(setting.request, DEVICE).peak * (1.05 if setting.name == "nf4" else 1))
        figures = {"libraries": DEVICE.libraries, "loaded": 1, "peak": peak, "threads": 1, "load_seconds": 1.0}
        lines[setting.name] = {
            "name": setting.name,
            "request": to_mapping(setting.request),
            "limit": 6 << 30,
            "killed": killed,
            "peak": peak,
            "figures": None if killed else figures,
            "commit": "abc",
            "date": "2026-01-31",
            "device": {"cpu": "some"},
        }
    path = tmp_path / "lines.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines.values()))
    script.summarize("tried", script.read_lines(path), {False: config})
    table = (tmp_path / "tried-ledger.md").read_text()
    assert "furthest off of 7 other settings: 4.8%" in table
    assert "libraries 800 MiB, overhead 60 MiB, 1.30 bytes" in table
    assert table.count("(killed)") == 1
    assert "| nf4 | nf4 | as configured | AVSR | 4,2 | 10 s | 1 |" in table
    assert (tmp_path / "tried-ledger.png").stat().st_size > 1000
