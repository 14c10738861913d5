"""``make demo``: its commands fit together, it goes the whole way on a tiny scale, and goes on from what is there."""

import importlib.util
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from helpers_commands import settings_of
from helpers_llm import save_tiny_llm
from helpers_scores import decoded

from omni_avsr.data.manifest import read_manifest
from omni_avsr.metrics import score
from omni_avsr.report import read_report
from omni_avsr.types import Modality, Task

SCRIPT = Path(__file__).resolve().parents[1] / "experiments" / "000-demo" / "run.py"
STEPS = ("prepare", "train", "evaluate", "transcribe")


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("demo_run", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["demo_run"] = module
    spec.loader.exec_module(module)
    return module


def test_each_step_reads_what_the_one_before_wrote(script: ModuleType) -> None:
    steps = script.plan(Path("out"))
    assert [step.command[0] for step in steps] == list(STEPS)
    corpus, train, evaluation, transcription = (settings_of(shlex.join(["omni-avsr", *s.command])) for s in steps)
    assert corpus.output == train.data.root == evaluation.data.root == Path("out/corpus")
    assert train.output / "checkpoint" == evaluation.checkpoint == transcription.checkpoint
    assert transcription.files == [script.example(Path("out"))]
    assert evaluation.shuffle_inputs
    assert train.data.cache.is_relative_to("out"), "removing the folder removes all of it"
    compression = train.model.compression
    assert len(compression.rates_of(Modality.AUDIO)) * len(compression.rates_of(Modality.VIDEO)) == 4  # eight columns


def test_the_worst_rates_and_the_luckiest_guesses_decide(script: ModuleType) -> None:
    columns = {"ASR 4": 3, "ASR 16": 10, "VSR 2": 20, "VSR 5": 41, "AVSR 4,2": 2, "AVSR 16,5": 11}
    hypotheses = [h for column, wrong in columns.items() for h in decoded(column, wrong)]
    hypotheses += [h for c, n in (("ASR 4", 80), ("VSR 5", 70)) for h in decoded(c, n, condition="shuffled inputs")]
    found = {name: (measured, met) for name, measured, _, met in script.verdicts(score(hypotheses, seed=1))}
    assert list(found.values()) == [(0.10, True), (0.41, False), (0.11, False), (0.70, True)]
    assert [name.split(",")[0] for name in found] == ["ASR", "VSR", "AVSR", "inputs of another clip"]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The command of a demo that takes seconds: few clips, a random LLM, one step a stage."""
    folder = tmp_path_factory.mktemp("demo")
    save_tiny_llm(folder / "llm", "llama")
    stages = ("video_encoder", "audio_encoder", "projector", "joint")
    corpus = {"speakers": 2, "sentences": 4, "held_out_speakers": 1, "validation_sentences": 1, "test_sentences": 2}
    return [
        *(sys.executable, str(SCRIPT), "--output", str(folder / "out")),
        *("--corpus", *(f"corpus.{key}={value}" for key, value in corpus.items())),
        *("--train", f"model.llm.weights={folder / 'llm'}", "data.num_workers=0", "model.video_encoder.image_size=16"),
        *(f"stages.{stage}.num_steps=1" for stage in stages),
    ]


@pytest.mark.slow
def test_the_whole_way_and_once_more(tiny: list[str]) -> None:
    output = Path(tiny[3])
    wide = os.environ | {"COLUMNS": "1000"}  # rich wraps its lines at this width
    first = subprocess.run(tiny, env=wide, capture_output=True, text=True, check=False)
    assert first.returncode == 0, first.stdout[-3000:] + first.stderr[-3000:]
    for number, step in enumerate(STEPS, 1):
        assert f"{number} of 4" in first.stdout
        assert f"$ omni-avsr {step} " in first.stdout
    assert "next: measure it on unseen sentences" in first.stdout
    said = first.stdout.partition("What is said: ")[2]
    assert said.startswith(
        next(c.text for c in read_manifest(output / "corpus" / "manifest.jsonl") if c.split == "test")
    )
    assert (output / "example.mp4").is_file()
    scores = read_report(output / "results" / "table.json").scores["test"]
    assert {s.setting.condition for s in scores} == {"matched", "shuffled inputs"}
    assert len(scores) == 2 * 8
    assert {s.setting.task for s in scores} == set(Task)
    summary = (output / "summary.md").read_text()
    assert "| ASR, at its worst rates | " in summary
    assert summary.strip() in first.stdout.replace("\r", "")

    trained = {path: path.stat().st_mtime_ns for path in output.rglob("*.safetensors")}
    assert trained
    second = subprocess.run(tiny, env=wide, capture_output=True, text=True, check=False)
    assert second.returncode == 0, second.stdout + second.stderr
    assert {path: path.stat().st_mtime_ns for path in output.rglob("*.safetensors")} == trained
    assert "2 of 2 clips are scored already" in second.stdout
    times = [json.loads((output / "times.json").read_text())[step] for step in STEPS]
    assert all(spent > 0 for spent in times)
    assert (output / "summary.md").read_text() != summary, "the second call's seconds are added to the first one's"


@pytest.mark.slow
def test_a_step_that_fails_ends_the_demo_and_says_how_to_go_on(tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), "--output", str(tmp_path / "out"), "--corpus", "corpus.sentences=0"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "Step 1 failed, as said above." in done.stdout
    assert "2 of 4: " not in done.stdout
