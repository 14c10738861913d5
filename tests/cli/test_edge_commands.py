"""``plan-edge`` and ``calibrate-device`` as they are typed: what they list, pick, refuse and write."""

import json
import logging
import sys
from pathlib import Path
from typing import Any

import pytest
from helpers_checkpoint import save_tiny_checkpoint
from helpers_model import model_values
from helpers_scores import evaluation

from omni_avsr.cli import calibrate_device, plan_edge
from omni_avsr.cli.edge_models import known_llms
from omni_avsr.edge.calibrate import Calibration, Check
from omni_avsr.edge.device import Device, read_device, write_device
from omni_avsr.edge.ledger import MemoryConstants
from omni_avsr.edge.meter import GIB
from omni_avsr.edge.request import Request
from omni_avsr.edge.timing import PassConstants, TimeConstants
from omni_avsr.metrics import score
from omni_avsr.report import Report, write_report
from omni_avsr.types import Modality, Rates, Task

PASS = PassConstants(layer=1e-3, byte=1e-10, flop=1e-11)
DEVICE = Device(
    MemoryConstants(libraries=800 << 20, overhead=0, scale=1.5),
    TimeConstants(dict.fromkeys(Modality, 1e-11), {"float32": PASS, "bfloat16": PASS, "int8": PASS}),
)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> Any:
    """Runs a command; gives its exit status and what it said, on one line."""
    monkeypatch.setenv("COLUMNS", "200")
    caplog.set_level(logging.INFO)

    def command(module: Any, *arguments: str | Path) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", [f"omni-avsr {module.__name__}", *map(str, arguments)])
        status = 0
        try:
            module.main()
        except SystemExit as error:
            status = int(error.code or 0)
        said = capsys.readouterr().out + caplog.text
        caplog.clear()
        return status, " ".join(said.split())

    return command


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("edge")
    save_tiny_checkpoint(folder, compression={"audio_rates": [2, 4, 5, 16], "video_rates": [1, 2, 3, 5]})
    return folder / "checkpoint"


def test_a_checkpoint_is_planned_with_what_is_known_of_it(checkpoint: Path, tmp_path: Path, run: Any) -> None:
    write_report(tmp_path, Report({"clips": score(evaluation(), seed=0)}))
    write_device(tmp_path / "device.json", DEVICE)
    status, said = run(
        plan_edge, "--memory", "8GB", "--latency", "2.5s", "--checkpoint", checkpoint,
        "--device", tmp_path / "device.json", "--results", tmp_path / "table.json", "--output", tmp_path / "plan.json",
    )  # fmt: skip
    assert status == 0
    assert "8 GB of memory: 6.00 GiB for the process" in said
    assert "AVSR of 10 s" in said
    plan = json.loads((tmp_path / "plan.json").read_text())
    assert (plan["process_bytes"], plan["latency"]) == (6 * GIB, 2.5)
    best, others = plan["options"][0], plan["options"][1:]
    # 4 % of words at 4,2, more at weaker compression; NF4 has no known time.
    assert (best["rates"], best["wer"], best["num_beams"]) == ({"audio": 4, "video": 2}, 0.04, 1)
    assert {option["weight_format"] for option in plan["options"]} == {"bfloat16", "int8"}
    assert all(option["total_seconds"] <= 2.5 for option in plan["options"])
    assert all(option["wer"] is None or option["wer"] >= 0.04 for option in others)
    assert "not known: measure the device" in plan["refusals"]["llm-llama, nf4"]
    assert best["peak_bytes"] == sum(best["bytes"].values())
    assert "take llm-llama in bfloat16, avsr at 4,2, greedily" in said


def test_what_cannot_fit_is_refused_with_the_numbers(checkpoint: Path, run: Any) -> None:
    status, said = run(plan_edge, "--memory", "2GB", "--checkpoint", checkpoint)
    assert status == 1
    assert "nothing fits 0.38 GiB" in said
    assert "0.8" in said
    assert "GiB at least, of 0.38 GiB" in said
    assert "memory is foretold with a server's constants" in said


def test_settings_without_an_llm_are_tried_with_those_that_are_known(run: Any, tmp_path: Path) -> None:
    assert {"llama_3_2_1b", "qwen2_5_0_5b"} <= set(known_llms())
    status, said = run(
        plan_edge, "--memory", "6GB", "--encoder-dtype", "bfloat16", "--llm", "llama_3_2_1b", "qwen2_5_0_5b",
        "--weights", "bfloat16", "nf4", "--task", "asr", "--output", tmp_path / "plan.json",
    )  # fmt: skip
    assert status == 0
    plan = json.loads((tmp_path / "plan.json").read_text())
    found = {(option["llm"], option["weight_format"]) for option in plan["options"]}
    assert ("Qwen2.5-0.5B", "nf4") in found
    assert "Llama-3.2-1B, bfloat16 does not fit" in said
    assert "unknown" in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--memory", "lots"], "such as 8GB"),
        (["--memory", "8GB", "--seconds", "0"], "numbers above 0"),
        (["--memory", "8GB", "--results", "table.json"], "name it by --checkpoint"),
        (["--memory", "8GB", "--config", "nothing"], "there is no"),
        (["--memory", "8GB", "--checkpoint", "."], "is no checkpoint"),
        (["--memory", "8GB", "--device", "nothing.json"], "cannot be read as a device"),
        (["--memory", "8GB", "--config", "omni_smollm2_tiny", "--llm", "llama_3_2_1b"], "an LLM of its own"),
    ],
)
def test_mistakes_are_told(arguments: list[str], message: str, run: Any, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    status, said = run(plan_edge, *arguments)
    assert status == 1
    assert message in said


def test_a_device_is_written_with_what_was_measured(tmp_path: Path, run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tiny.json").write_text(json.dumps(model_values(tmp_path)))
    seen: list[Calibration] = []

    def pretend(settings: Calibration, tell: Any) -> tuple[Device, list[Check], dict[str, str]]:
        seen.append(settings)
        request = Request(settings.task, settings.rates, settings.seconds[0])
        return DEVICE, [Check("int8", request, 110 << 20, 100 << 20, False)], {"nf4": "it is too much"}

    monkeypatch.setattr(calibrate_device, "calibrate", pretend)
    arguments = ["--memory", "8GB", "--config", tmp_path / "tiny.json", "--output", tmp_path / "device.json"]
    status, said = run(calibrate_device, *arguments, "--seconds", "1", "4")
    assert status == 0
    assert read_device(tmp_path / "device.json") == DEVICE
    assert "int8 1 s 100 110 +10.0%" in said
    assert "nf4 was not measured: it is too much" in said
    [settings] = seen
    assert (settings.task, settings.rates, settings.limit) == (Task.AVSR, Rates(2, 1), 6 * GIB)
    assert (settings.formats, settings.checkpoint) == (("bfloat16", "int8", "nf4"), None)
    status, said = run(calibrate_device, *arguments, "--seconds", "4", "1")
    assert status == 1
    assert "a short and a longer clip" in said
