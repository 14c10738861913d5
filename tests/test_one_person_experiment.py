"""Experiment 005: an arm is trained and scored along its way on tiny models, and its lines become tables."""

import importlib
import json
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from helpers_checkpoint import save_tiny_checkpoint
from helpers_model import RATES, write_corpus

from omni_avsr.config import BridgeFormerConfig
from omni_avsr.data.manifest import read_manifest, write_manifest
from omni_avsr.types import Clip, Rates

FOLDER = Path(__file__).resolve().parents[1] / "experiments" / "005-one-person"
SCRIPTS = ("arms", "bases", "run", "summarize", "ceiling", "memory")
BRIDGE = BridgeFormerConfig(hidden_dim=8, num_layers=1, num_heads=2, ffn_dim=16, num_tokens=4)


@pytest.fixture(scope="module")
def scripts() -> dict[str, ModuleType]:
    """The experiment's scripts, which find each other as they do when one of them is run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FOLDER))
        others = {name: sys.modules.pop(name, None) for name in SCRIPTS}  # other experiments have a run.py too
        own = {name: importlib.import_module(name) for name in SCRIPTS}
        for name, module in others.items():
            del sys.modules[name]
            if module is not None:
                sys.modules[name] = module
    return own


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint, clips of two talkers, and of the one whom the model knows."""
    made = tmp_path_factory.mktemp("person")
    save_tiny_checkpoint(made, torch.float32)
    clips = read_manifest(write_corpus(made / "corpus"))

    def spoken(place: int, clip: Clip, speaker: str) -> Clip:
        split = "test" if place % 3 == 0 else "train"
        return replace(clip, speaker=speaker, split=split, video=None, num_frames=0, words=())

    lombard = [spoken(n, clip, f"s3{n % 2}") for n, clip in enumerate(clips)]
    write_manifest(made / "lombard" / "manifest.jsonl", lombard)
    write_manifest(made / "grid" / "manifest.jsonl", [spoken(n, clip, "s1") for n, clip in enumerate(clips)])
    return made


def test_every_method_has_its_talkers_and_starts_from_a_base(scripts: dict[str, ModuleType]) -> None:
    arms, methods = scripts["arms"].arms(), scripts["arms"].METHODS
    assert len({arm.name for arm in arms}) == len(arms)
    assert {arm.base for arm in arms} - {"grid"} <= set(scripts["bases"].BASES)
    assert [arm.method for arm in arms].count(None) == 8 * len({method.base for method in methods.values()})
    assert all([arm.method for arm in arms].count(name) == 8 for name in methods)


def test_the_ceiling_is_what_the_llm_makes_of_the_words_themselves(
    scripts: dict[str, ModuleType], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scripts["ceiling"], "CHECKPOINT", folder / "checkpoint")
    lines = list(scripts["ceiling"].measure(["bin blue", "lay red now"]))
    assert [(line["adapted"], bool(line["instruction"])) for line in lines] == [
        *((True, False), (True, True), (False, False), (False, True))
    ]
    assert all(len(line["texts"]) == 2 for line in lines)
    assert lines[0]["texts"] != lines[2]["texts"]
    assert scripts["summarize"].ceiling_row(lines[0])[:2] == ["of 001", "none"]


@pytest.mark.parametrize("method", ["lora", "embed_link"])
def test_an_arm_is_trained_scored_and_told(
    scripts: dict[str, ModuleType],
    folder: Path,
    tmp_path: Path,
    method: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    script, arms = scripts["run"], scripts["arms"]
    monkeypatch.setattr(script, "CHECKPOINT", folder / "checkpoint")
    monkeypatch.setattr(script, "POOLED", BRIDGE)
    monkeypatch.setattr(script, "RATES", Rates(RATES["audio_rates"][0], RATES["video_rates"][0]))
    monkeypatch.setattr(script, "METHODS", {method: replace(arms.METHODS[method], points=(1, 2))})
    folders = script.Folders(folder, tmp_path / "runs", tmp_path / "results")
    for talker in ("s30", "s31"):
        for arm in (arms.Arm(talker, None), arms.Arm(talker, method)):
            script.train_and_score(arm, folders)
            assert script.missing(arm, folders) == []
    scripts["memory"].train(method, folder, tmp_path / "runs")  # beside what was trained to other points
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["peak"] > 0
    lines = [json.loads(line) for line in (tmp_path / "results" / f"{method}-s30.jsonl").read_text().splitlines()]
    assert [line["steps"] for line in lines] == [1, 2]
    assert lines[0]["flops_by_stage"][0] * 2 == pytest.approx(lines[1]["flops_by_stage"][0], rel=0.5)
    prompts = [(row["clips"], row["prompt"]) for row in lines[0]["hypotheses"]]
    expected = [("talker", "own"), ("talker", "none"), ("talker", "instruction"), ("known", "own")]
    assert sorted(prompts) == sorted([*expected, *([("talker", "nearest")] if method == "embed_link" else [])])
    memory = tmp_path / "memory.jsonl"
    memory.write_text(json.dumps({"method": method, "peak": 3 << 20, "libraries": 2 << 20, "limit": 4 << 20}) + "\n")
    scripts["summarize"].summarize(tmp_path / "results", tmp_path, tmp_path)
    table = (tmp_path / "table.md").read_text()
    assert f"| {method} | 1 | 2 |" in table
    assert "| none (grid) | 0 | 2 | 0.0 |  |  |" in table
    assert f"| {method} | 3 | 2 | 4 |" in table
    assert (tmp_path / "curves.png").is_file()
    told: dict[str, Any] = {"lora": "times faster than lora", "embed_link": "There is no point of lora."}
    assert told[method] in table
