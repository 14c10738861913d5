"""The elastic controller: which task and rates an utterance gets within limits of memory and time."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers_checkpoint import random_video, save_tiny_checkpoint, write_muxed
from helpers_model import model_values

import omni_avsr
from omni_avsr.config import ModelConfig, from_mapping
from omni_avsr.edge import elastic
from omni_avsr.edge.budget import process_bytes
from omni_avsr.edge.device import Device
from omni_avsr.edge.elastic import Controller, ElasticOptions, check_room
from omni_avsr.edge.ledger import MemoryConstants, MemoryLedger
from omni_avsr.edge.meter import run_limited
from omni_avsr.edge.plan import Budget, WerKey
from omni_avsr.edge.timing import PassConstants, TimeConstants
from omni_avsr.recording import Recording
from omni_avsr.transcribe import Failure, TranscribeOptions, Transcriber
from omni_avsr.transcript import Transcript
from omni_avsr.types import Modality, Rates, Task

HELD = 1 << 30
MEMORY = MemoryConstants(libraries=1 << 20, overhead=0, scale=1.0)
# A second for each position that a pass reads, which makes times easy to foretell by rates.
SLOW = Device(
    MEMORY,
    TimeConstants(dict.fromkeys(Modality, 0.0), {"float32": PassConstants(layer=0.0, byte=0.0, flop=1e-6)}),
)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> ModelConfig:
    rates = {"audio_rates": [2, 8], "video_rates": [1, 4]}
    return from_mapping(ModelConfig, model_values(tmp_path_factory.mktemp("model"), compression=rates))


def controller(config: ModelConfig, memory: int = 2 * HELD, latency: float | None = None, **more: object) -> Controller:
    options = replace(ElasticOptions(Budget(memory, latency), SLOW), **more)
    return Controller(config, options, num_beams=1, max_new_tokens=8, held=HELD)


def spoken(noise: float = 0.0) -> np.ndarray:
    """Two seconds of bursts with pauses between them, and so much white noise."""
    time = np.arange(32_000) / 16_000
    bursts = np.where(np.sin(2 * np.pi * 1.2 * time) > 0, 0.1 * np.sin(2 * np.pi * 200 * time), 0.0)
    return (bursts + noise * np.random.default_rng(0).standard_normal(32_000)).astype(np.float32)


def recording(sound: np.ndarray | None = None, pictures: np.ndarray | None = None) -> Recording:
    sound = spoken() if sound is None else sound
    return Recording(Path("clip.mkv"), Task.AVSR, sound, random_video(50, 1) if pictures is None else pictures)


def test_with_room_and_time_the_most_tokens_are_taken(config: ModelConfig) -> None:
    found, choice = controller(config).fit(recording(), True, 2.0)
    assert (choice.task, choice.rates) == (Task.AVSR, Rates(2, 1))
    assert found.notes == ()
    assert choice.peak > HELD


def test_longer_utterances_and_shorter_limits_are_compressed_more(config: ModelConfig) -> None:
    free = controller(config, latency=float("inf"))
    times = {rates: free.choose([Task.AVSR], 2.0).seconds for rates in [Rates(2, 1)]}
    [usual] = times.values()
    assert usual is not None
    assert free.choose([Task.AVSR], 4.0).rates == Rates(2, 1)
    limited = controller(config, latency=usual)
    assert limited.choose([Task.AVSR], 2.0).rates == Rates(2, 1)
    longer = limited.choose([Task.AVSR], 4.0)
    assert longer.seconds is not None
    assert longer.seconds <= usual
    assert sum(1 / longer.rates.of(m) for m in Modality) < 1.5
    late = controller(config, latency=usual / 1000).choose([Task.AVSR], 2.0)
    assert late.rates == Rates(8, 4)
    assert "nothing is faster" in late.notes[0]


def test_sound_alone_is_taken_where_both_streams_take_too_long(config: ModelConfig) -> None:
    fastest = controller(config, latency=0.0).choose([Task.ASR], 2.0).seconds
    assert fastest is not None
    found, choice = controller(config, latency=fastest).fit(recording(), True, 2.0)
    assert (choice.task, choice.rates.audio) == (Task.ASR, 8)
    assert found.task is Task.ASR
    assert found.crops is None
    assert "in place of avsr, by the limits" in found.notes[0]
    asked_for, choice = controller(config, latency=fastest).fit(recording(), False, 2.0)
    assert (asked_for.task, choice.rates) == (Task.AVSR, Rates(8, 4))


def test_nothing_above_the_memory_limit_is_chosen(config: ModelConfig) -> None:
    peaks = {choice.rates: choice.peak for choice in controller(config)._choices([Task.AVSR], 2.0)}
    for limit in sorted(peaks.values()):
        assert controller(config, memory=limit).choose([Task.AVSR], 2.0).peak <= limit
    with pytest.raises(ValueError, match=r"2\.0 s at once take 1\.0. GiB at least, of 1\.00 GiB"):
        controller(config, memory=HELD).choose([Task.AVSR], 2.0)
    with pytest.raises(ValueError, match=r"of 0\.00 GiB"):
        check_room(config, ElasticOptions(Budget(1 << 20), SLOW))
    check_room(config, ElasticOptions(Budget(HELD), SLOW))


def test_known_error_rates_decide(config: ModelConfig) -> None:
    wers = {WerKey(Task.AVSR, "8,1", 1, "float32"): 0.02, WerKey(Task.AVSR, "2,1", 1, "float32"): 0.03}
    assert controller(config, wers=wers).choose([Task.AVSR], 2.0).rates == Rates(8, 1)


def test_times_that_nobody_measured_are_no_basis(config: ModelConfig) -> None:
    with pytest.raises(ValueError, match="calibrate-device"):
        controller(config, latency=1.0, device=Device(MEMORY)).choose([Task.AVSR], 2.0)


@pytest.mark.parametrize(
    ("sound", "pictures", "task", "reason"),
    [
        (np.zeros(32_000, np.float32), None, Task.VSR, "the sound is silent"),
        (None, np.zeros((50, 96, 96), np.uint8), Task.ASR, "100% of the pictures show nothing"),
        (np.zeros(32_000, np.float32), np.zeros((50, 96, 96), np.uint8), Task.AVSR, ""),
    ],
)
def test_a_stream_of_no_use_is_passed_over(
    config: ModelConfig, sound: np.ndarray | None, pictures: np.ndarray | None, task: Task, reason: str
) -> None:
    found, choice = controller(config).fit(recording(sound, pictures), True, 2.0)
    assert choice.task is found.task is task
    assert reason in " ".join(found.notes)
    asked_for, _ = controller(config).fit(recording(sound, pictures), False, 2.0)
    assert asked_for.task is Task.AVSR


def test_noise_far_above_speech_is_passed_over(config: ModelConfig) -> None:
    assert controller(config).fit(recording(spoken(noise=0.5)), True, 2.0)[1].task is Task.VSR
    assert controller(config).fit(recording(spoken(noise=0.02)), True, 2.0)[1].task is Task.AVSR


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("elastic")
    save_tiny_checkpoint(folder)
    write_muxed(folder / "both.mkv", spoken()[:16_000], random_video(25, 1))
    write_muxed(folder / "dark.mkv", spoken()[:16_000], np.zeros((25, 96, 96), np.uint8))
    return folder


def run(loaded: Transcriber, options: TranscribeOptions, *paths: Path) -> list[Transcript]:
    found = list(loaded.run(paths, options))
    assert not any(isinstance(result, Failure) for result in found), found
    return [result for result in found if isinstance(result, Transcript)]


def test_files_are_transcribed_as_at_the_rates_that_were_chosen(folder: Path) -> None:
    loaded = omni_avsr.load(folder / "checkpoint")
    # Times of 1e-6 s a FLOP: no rate is fast enough, so the strongest compression of all tasks is taken.
    slow = ElasticOptions(Budget(1 << 40, 1e-9), SLOW)
    both, dark = run(loaded, TranscribeOptions(elastic=slow, batch_size=1), folder / "both.mkv", folder / "dark.mkv")
    assert "nothing is faster" in both.notes[-1]
    assert dark.task is Task.ASR
    fixed = TranscribeOptions(task=both.task, rates=both.rates)
    [again] = run(loaded, fixed, folder / "both.mkv")
    assert (again.text, again.num_tokens) == (both.text, both.num_tokens)
    with pytest.raises(ValueError, match="chooses the rates itself"):
        TranscribeOptions(elastic=slow, rates=Rates(2, 1), batch_size=1)


def test_the_model_is_described_once_for_all_utterances(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded, described, describe = omni_avsr.load(folder / "checkpoint"), [], elastic.planned_memory

    def watched(config: ModelConfig) -> MemoryLedger:
        described.append(config)
        return describe(config)

    monkeypatch.setattr(elastic, "planned_memory", watched)
    options = TranscribeOptions(elastic=ElasticOptions(Budget(1 << 40, 1e-9), SLOW), batch_size=1)
    assert [run(loaded, options, folder / "both.mkv")[0].task for _ in range(2)] == [Task.ASR] * 2
    assert len(described) == 1
    run(loaded, replace(options, max_new_tokens=3), folder / "both.mkv")
    assert len(described) == 2


def test_a_process_stays_below_its_limit(folder: Path) -> None:
    start = "from omni_avsr.cli.main import main; main()"
    command = [sys.executable, "-c", start, "transcribe", "--checkpoint", folder / "checkpoint"]
    limit = process_bytes(4.0)
    outcome = run_limited([*command, "--memory", "4GB", folder / "both.mkv"], limit)
    outcome.check()
    assert 0 < outcome.peak <= limit
    refused = run_limited([*command, "--memory", "1.9GB", folder / "both.mkv"], limit)
    assert refused.exit_code != 0
    assert "this model takes" in refused.errors
    both = run_limited([*command, "--memory", "4GB", "--audio-rate", "2", folder / "both.mkv"], limit)
    assert "choose the rates" in both.errors
