"""Experiment 004's measurement of drafting: every part runs on a tiny model, and its lines become tables and plots."""

import importlib
import json
from pathlib import Path
from types import ModuleType

import pytest
import torch
from helpers_model import tiny_model, write_corpus

from omni_avsr.data.manifest import read_manifest
from omni_avsr.scorer import Scorer, ScoringConfig
from omni_avsr.types import Rates, Task

FOLDER = Path(__file__).resolve().parents[1] / "experiments" / "004-edge"


@pytest.fixture
def drafting(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(FOLDER))
    module = importlib.import_module("drafting")
    changes = {"RATES": (Rates(2, 3),), "SNR_DB": (), "RELAXED": ((Task.ASR, None),), "THRESHOLDS": (0.1,)}
    changes |= {"BATCH_SIZE": 2, "NUM_JOINED": 2, "BEAMS": ((1, 2), (2, 2), (9, 2)), "MAX_NEW_TOKENS": 5}
    for name, value in changes.items():
        monkeypatch.setattr(module, name, value)
    return module


@torch.no_grad()
def test_every_part_runs_and_becomes_a_table(drafting: ModuleType, tmp_path: Path) -> None:
    clips = read_manifest(write_corpus(tmp_path / "corpus", num_train=3, num_validation=0))
    model = tiny_model(tmp_path)
    bench = drafting.Bench(Scorer(model, clips, tuple(Task), ScoringConfig(), None, ()), clips)
    lines = {}
    for name, part in drafting.PARTS.items():
        found = [{"weights": "float32", "commit": "c", "date": "d", **line} for line in part.run(bench)]
        lines[name] = json.loads(json.dumps(found))
    assert {name: [len(line["clips"]) for line in found] for name, found in lines.items()} == {
        "single": [3, 3, 3],
        "noisy": [3, 3, 3],
        "relaxed": [3, 3],
        "joined": [2] * 6,
        "beams": [3, 1],
    }
    rows = [clip for name in ("single", "noisy", "joined", "beams") for line in lines[name] for clip in line["clips"]]
    assert all(clip["same"] for clip in rows)
    for line in lines["single"]:
        for clip in line["clips"]:
            assert clip["drafted_passes"] <= clip["greedy_passes"] <= 5
            assert clip["greedy_first_seconds"] < clip["greedy_seconds"]
    drafting.summarize(lines, tmp_path)
    text = (tmp_path / "drafting.md").read_text()
    assert text.count("\n## ") == 5
    assert "| float32 | AVSR | 2,3 | 3 |" in text
    assert sorted(path.name for path in tmp_path.glob("*.png")) == ["drafting-relaxed.png", "drafting-time.png"]
