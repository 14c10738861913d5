"""Constants come back from runs that were made with them."""

from dataclasses import replace
from pathlib import Path

import pytest
from helpers_model import model_values

from omni_avsr.config import ModelConfig, from_mapping
from omni_avsr.edge.device import Device, read_device, write_device
from omni_avsr.edge.fit import MemoryRun, Timed, fit_memory, fit_time
from omni_avsr.edge.ledger import MemoryConstants, MemoryLedger, memory_ledger, planned_memory
from omni_avsr.edge.request import Request
from omni_avsr.edge.timing import PassConstants, TimeConstants, WorkLedger
from omni_avsr.types import Modality, Rates, Task

MEMORY = MemoryConstants(libraries=700_000_000, overhead=50_000_000, scale=1.6)
TIME = TimeConstants(
    encoders={Modality.AUDIO: 2e-11, Modality.VIDEO: 3e-11},
    passes={
        "float32": PassConstants(layer=1e-3, byte=2e-10, flop=1e-11),
        "int8": PassConstants(layer=1e-3, byte=8e-10, flop=1e-11),
    },
)
SHORT, LONG = (Request(Task.AVSR, Rates(2, 1), seconds, new_tokens=20) for seconds in (3.0, 60.0))


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> MemoryLedger:
    values = model_values(tmp_path_factory.mktemp("fit"))
    values["video_encoder"] = {"kind": "compact_video"}
    return planned_memory(from_mapping(ModelConfig, values))


def run_of(ledger: MemoryLedger, request: Request, constants: MemoryConstants = MEMORY, noise: int = 0) -> MemoryRun:
    return MemoryRun(ledger, request, ledger.transcribing(request, constants).peak + noise)


@pytest.mark.parametrize("requests", [(SHORT, LONG), (LONG, SHORT)])
def test_two_runs_tell_overhead_and_scale(ledger: MemoryLedger, requests: tuple[Request, Request]) -> None:
    found = fit_memory(MEMORY.libraries, [run_of(ledger, request) for request in requests])
    assert found.scale == pytest.approx(MEMORY.scale, rel=1e-6)
    assert found.overhead == pytest.approx(MEMORY.overhead, abs=100)
    # Between and beyond them, and for other settings, the ledger then gives what is there.
    other = Request(Task.VSR, Rates(2, 3), 30.0, num_beams=4)
    assert ledger.transcribing(other, found).peak == pytest.approx(ledger.transcribing(other, MEMORY).peak, abs=200)


def test_what_is_measured_may_be_less_than_what_is_counted(ledger: MemoryLedger) -> None:
    constants = replace(MEMORY, overhead=-40_000_000)
    found = fit_memory(MEMORY.libraries, [run_of(ledger, request, constants) for request in (SHORT, LONG)])
    assert found.overhead == pytest.approx(-40_000_000, abs=100)


def test_runs_that_cannot_tell_are_refused(ledger: MemoryLedger) -> None:
    near = replace(SHORT, seconds=3.1)
    with pytest.raises(ValueError, match="further apart"):
        fit_memory(0, [run_of(ledger, SHORT), run_of(ledger, near)])
    with pytest.raises(ValueError, match="disturbed the measurement"):
        fit_memory(0, [run_of(ledger, SHORT, noise=10**9), run_of(ledger, LONG)])


def timed(ledger: MemoryLedger, request: Request, name: str, step_noise: float = 0.0) -> Timed:
    work, constants = WorkLedger(ledger).of(request), TIME.passes[name]
    encoding = {m: flops * TIME.encoders[m] for m, flops in work.encoder_flops.items()}
    return Timed(work, name, encoding, work.prompt.seconds(constants), work.step.seconds(constants) + step_noise)


def test_times_tell_seconds_for_flops_and_bytes_of_each_format(ledger: MemoryLedger) -> None:
    int8 = memory_ledger(ledger.model, "bfloat16", "int8")
    runs = [timed(ledger, SHORT, "float32"), timed(ledger, LONG, "float32"), timed(int8, SHORT, "int8")]
    found = fit_time(1e-3, runs)
    assert found.encoders == pytest.approx(TIME.encoders)
    for name, expected in TIME.passes.items():
        assert vars(found.passes[name]) == pytest.approx(vars(expected), rel=1e-3)
    whole, foretold = runs[1], WorkLedger(ledger).of(LONG).seconds(found, "float32")
    assert foretold is not None
    steps = (LONG.new_tokens - 1) * whole.step
    assert foretold.total == pytest.approx(sum(whole.encoding.values()) + whole.prompt + steps, rel=1e-3)


def test_noise_makes_no_negative_seconds(ledger: MemoryLedger) -> None:
    found = fit_time(1e-3, [timed(ledger, SHORT, "float32", step_noise=-1.0)])
    assert min(vars(found.passes["float32"]).values()) >= 0


def test_what_was_not_measured_has_no_time(ledger: MemoryLedger) -> None:
    work = WorkLedger(ledger).of(SHORT)
    assert work.seconds(TIME, "nf4") is None
    assert work.seconds(replace(TIME, encoders={Modality.AUDIO: 1e-11}), "float32") is None
    heard = WorkLedger(ledger).of(replace(SHORT, task=Task.ASR))
    assert heard.seconds(replace(TIME, encoders={Modality.AUDIO: 1e-11}), "float32") is not None


def test_beams_and_weaker_compression_take_longer(ledger: MemoryLedger) -> None:
    def total(request: Request) -> float:
        seconds = WorkLedger(ledger).of(request).seconds(TIME, "float32")
        assert seconds is not None
        return seconds.total

    assert total(SHORT) < total(replace(SHORT, num_beams=5)) < total(replace(LONG, num_beams=5))
    assert total(replace(SHORT, rates=Rates(5, 3))) < total(SHORT)


def test_a_device_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    device = Device(MEMORY, TIME, {"cpu": "some"}, "abc", "2026-01-31", ({"peak": 3},))
    write_device(tmp_path / "device.json", device)
    assert read_device(tmp_path / "device.json") == device


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "cannot be read"), ("[]", "is no device"), ("{}", r"device\.json\.memory"), (None, "cannot be read")],
)
def test_other_files_are_no_device(tmp_path: Path, text: str | None, message: str) -> None:
    path = tmp_path / "device.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_device(path)
