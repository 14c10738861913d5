"""Experiment 004's measurement of quantised weights: every form is measured on a tiny model, and becomes a row."""

import importlib
import json
from pathlib import Path

import pytest
from helpers_checkpoint import save_tiny_checkpoint, write_test_set

from omni_avsr.data.manifest import read_manifest
from omni_avsr.types import Task

FOLDER = Path(__file__).resolve().parents[1] / "experiments" / "004-edge"


def test_every_form_becomes_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    script = importlib.import_module("quantization")
    save_tiny_checkpoint(tmp_path)
    monkeypatch.setattr(script, "CHECKPOINT", tmp_path / "checkpoint")
    clips = [clip for clip in read_manifest(write_test_set(tmp_path / "corpus")) if clip.id in ("a1", "b1")]
    cases = list(script.cases())
    assert len(set(cases)) == 4 * 2 * len(Task)
    chosen = [case for case in cases if case.task is Task.AVSR]
    lines = [json.loads(json.dumps(script.measure(case, clips))) for case in chosen]
    sizes = {(line["case"]["weights"], line["case"]["merged"]): line["llm_bytes"] for line in lines}
    for merged in (False, True):
        assert sorted(script.WEIGHTS, key=lambda form: -sizes[form, merged]) == list(script.WEIGHTS)
    assert all(line["peak_bytes"] >= line["loaded_bytes"] >= line["libraries_bytes"] > 0 for line in lines)
    assert [script.read_case(json.dumps(line["case"])) for line in lines] == chosen
    rows = [line for line in script.table(lines).splitlines() if line.startswith("| ")]
    assert len(rows) == 2 + len(chosen)
    assert rows[-1].startswith("| nf4 | yes | AVSR 2,1 | ")
