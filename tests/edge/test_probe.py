"""A transcription that is measured, in this process and in one of its own, and what a calibration makes of such."""

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from helpers_checkpoint import save_tiny_checkpoint
from helpers_model import model_values

from omni_avsr.config import ModelConfig, from_mapping
from omni_avsr.edge import calibrate as calibrate_module
from omni_avsr.edge import probe as probe_module
from omni_avsr.edge.calibrate import Calibration, calibrate, write_noise_clip
from omni_avsr.edge.device import read_device, write_device
from omni_avsr.edge.ledger import MemoryConstants, in_format, planned_memory
from omni_avsr.edge.meter import GIB, Outcome
from omni_avsr.edge.probe import Figures, Probe, measure, run
from omni_avsr.edge.request import Request
from omni_avsr.edge.timing import PassConstants, WorkLedger
from omni_avsr.types import Modality, Rates, Task

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory is measured by /proc")

CONSTANTS = MemoryConstants(libraries=600_000_000, overhead=40_000_000, scale=1.4)
LAYER = 2e-3
PASS = PassConstants(layer=LAYER, byte=3e-10, flop=2e-11)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("probe")
    save_tiny_checkpoint(folder)
    return folder / "checkpoint"


@pytest.mark.parametrize("task", list(Task))
def test_stages_and_times_of_a_transcription(
    checkpoint: Path, tmp_path: Path, task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock that is told: each encoder takes half a second, a first token one, and all five of them three."""
    ticks = [0.5] * len(task.modalities) + [1.0, 3.0]
    done = []

    def fastest(work: Callable[[], object], repetitions: int) -> float:
        work()
        done.append(repetitions)
        return ticks[len(done) - 1]

    monkeypatch.setattr(probe_module, "_fastest", fastest)
    request = Request(task, Rates(2, 3), 0.4, new_tokens=5, num_beams=2)
    figures = run(Probe(request, write_noise_clip(tmp_path, 0.4), checkpoint=checkpoint, repetitions=2))
    assert 0 < figures.libraries <= figures.loaded <= figures.peak
    assert figures.encoding == dict.fromkeys(task.modalities, 0.5)
    assert (figures.prompt, figures.step) == (1.0, 0.5)
    assert done == [2] * len(ticks)


def test_the_fastest_repetition_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 5.0, 10.0, 12.0, 20.0, 24.0])
    monkeypatch.setattr(probe_module.time, "perf_counter", lambda: next(clock))
    assert probe_module._fastest(lambda: None, 3) == 2.0


def test_random_weights_of_any_shape_serve_too(tmp_path: Path) -> None:
    model = from_mapping(ModelConfig, model_values(tmp_path))
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 40}
    request = Request(Task.ASR, Rates(2, 3), 0.4, new_tokens=2)
    probe = Probe(request, write_noise_clip(tmp_path, 0.4), model=model, llm_shape=shape)
    assert run(probe).prompt is None
    with pytest.raises(ValueError, match="one of them"):
        replace(probe, checkpoint=tmp_path)


@pytest.mark.slow
def test_a_process_of_its_own_is_measured_and_killed_at_its_limit(checkpoint: Path, tmp_path: Path) -> None:
    request = Request(Task.AVSR, Rates(2, 3), 0.4, new_tokens=3)
    probe = Probe(request, write_noise_clip(tmp_path, 0.4), checkpoint=checkpoint)
    outcome, figures = measure(probe, 4 * GIB)
    assert figures is not None
    assert figures.peak == pytest.approx(outcome.peak, rel=0.05)
    killed, nothing = measure(probe, 200 << 20)
    assert killed.killed
    assert nothing is None


def settings_of(folder: Path, **changes: Any) -> Calibration:
    values = model_values(folder)
    values["video_encoder"] = {"kind": "compact_video"}
    settings = Calibration(
        model=from_mapping(ModelConfig, values),
        checkpoint=None,
        formats=("float32", "int8", "nf4"),
        task=Task.AVSR,
        rates=Rates(2, 1),
        seconds=(1.0, 20.0),
        new_tokens=6,
        repetitions=2,
        limit=GIB,
    )
    return replace(settings, **changes)


def pretended(settings: Calibration, failing: str | None = None) -> Any:
    """A ``measure`` that gives what a device of ``CONSTANTS`` would."""
    seen: list[Probe] = []

    def measured(probe: Probe, limit: int) -> tuple[Outcome, Figures | None]:
        seen.append(probe)
        outcome = Outcome(1, limit, False, 1.0, 0, "", "")
        if probe.llm_shape is not None:
            step = LAYER * probe.llm_shape["num_hidden_layers"]
            return outcome, Figures(CONSTANTS.libraries, 1, 1, 1, 1.0, {Modality.AUDIO: 1.0}, 0.1, step)
        assert probe.model is not None
        name = probe.model.llm.quantization or probe.model.llm.dtype
        if name == failing:
            return replace(outcome, killed=True, peak=2 * limit), None
        ledger = planned_memory(probe.model)
        work = WorkLedger(ledger).of(probe.request)
        return outcome, Figures(
            libraries=CONSTANTS.libraries,
            loaded=1,
            peak=ledger.transcribing(probe.request, CONSTANTS).peak,
            threads=1,
            load_seconds=1.0,
            encoding={m: 1e-11 * flops for m, flops in work.encoder_flops.items()},
            prompt=work.prompt.seconds(PASS),
            step=work.step.seconds(PASS),
        )

    return measured, seen


def test_a_calibration_finds_the_device_and_foretells_the_runs_it_was_not_fitted_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_of(tmp_path)
    measured, seen = pretended(settings)
    monkeypatch.setattr(calibrate_module, "measure", measured)
    device, checks, skipped = calibrate(settings)
    assert not skipped
    assert device.memory.scale == pytest.approx(CONSTANTS.scale, rel=1e-6)
    assert device.memory.overhead == pytest.approx(CONSTANTS.overhead, abs=100)
    assert device.time.encoders == pytest.approx(dict.fromkeys(Modality, 1e-11))
    for name in settings.formats:
        assert vars(device.time.passes[name]) == pytest.approx(vars(PASS), rel=1e-3)
    assert [(check.weight_format, check.request.seconds, check.is_fitted) for check in checks] == [
        ("float32", 20.0, True),
        ("float32", 1.0, True),
        ("int8", 1.0, False),
        ("nf4", 1.0, False),
    ]
    assert all(check.predicted == pytest.approx(check.measured, rel=1e-6) for check in checks)
    assert {probe.repetitions for probe in seen} == {2}
    write_device(tmp_path / "device.json", device)
    assert read_device(tmp_path / "device.json") == device
    assert device.commit != "unknown"
    assert device.facts["cores"]


def test_a_format_that_cannot_be_measured_is_left_out_unless_it_is_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_of(tmp_path)
    monkeypatch.setattr(calibrate_module, "measure", pretended(settings, failing="int8")[0])
    device, _, skipped = calibrate(settings)
    assert device.time.passes.keys() == {"float32", "nf4"}
    assert "2.00 GiB resident, the limit is 1.00 GiB" in skipped["int8"]
    monkeypatch.setattr(calibrate_module, "measure", pretended(settings, failing="float32")[0])
    with pytest.raises(ValueError, match="the limit is"):
        calibrate(settings)


def test_a_checkpoint_is_measured_as_it_is_in_each_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def measured(probe: Probe, limit: int) -> tuple[Outcome, Figures]:
        seen.append(probe)
        raise ValueError("enough")

    monkeypatch.setattr(calibrate_module, "measure", measured)
    settings = settings_of(tmp_path, checkpoint=tmp_path / "checkpoint", formats=("nf4",))
    with pytest.raises(ValueError, match="enough"):
        calibrate(settings)
    [probe] = seen
    assert (probe.checkpoint, probe.llm_dtype, probe.quantization) == (tmp_path / "checkpoint", "bfloat16", "nf4")
    assert in_format("float32", settings.model.llm) == ("float32", None)
