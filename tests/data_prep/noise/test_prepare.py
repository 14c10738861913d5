"""Preparing noise: WAV and manifest of what is good, a reason for what is not, and the same bytes again."""

import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import av
import numpy as np
import pytest

from data_prep.noise import prepare
from data_prep.noise.folder import read_noise_folder
from data_prep.noise.prepare import NoiseReport, prepare_noise
from data_prep.noise.source import SourceNoise
from data_prep.rejection import ProblemError, Reason, read_rejections
from omni_avsr.data.noise_manifest import read_noise_manifest
from omni_avsr.data.noise_recording import WaveRecording, read_wave
from omni_avsr.media import read_audio, write_audio


def hiss(seed: int, samples: int = 3000) -> np.ndarray:
    return 0.1 * np.random.default_rng(seed).standard_normal(samples)


def write_stereo(path: Path, rate: int, seconds: float) -> None:
    """A tone of 440 Hz left and silence right, as 24-bit FLAC."""
    left = 0.5 * np.sin(2 * np.pi * 440 / rate * np.arange(round(seconds * rate)))
    values = np.stack([left, np.zeros_like(left)], axis=1) * 2**31
    with av.open(str(path), "w") as container:
        stream = container.add_stream("flac", rate=rate, layout="stereo", format="s32")
        frame = av.AudioFrame.from_ndarray(values.astype(np.int32).reshape(1, -1), format="s32", layout="stereo")
        frame.sample_rate = rate
        for packet in (stream.encode(frame), stream.encode(None)):
            container.mux(packet)


def in_process(
    function: Callable[[SourceNoise], object], jobs: Sequence[SourceNoise], *_: object, **__: object
) -> Iterator[tuple[SourceNoise, object]]:
    """``run_jobs`` without the seconds that workers take to start."""
    for job in jobs:
        try:
            yield job, function(job)
        except ProblemError as error:
            yield job, error.problem


Prepared = tuple[Path, Path, NoiseReport]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """A folder with good and with bad files, what it became, and the report."""
    folder = tmp_path_factory.mktemp("noise")
    for number, name in enumerate(["train/rain/a.flac", "train/rain/b.wav", "validation/c.wav", "test/d é.flac"]):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_audio(folder / name, hiss(number))
    write_stereo(folder / "test" / "stereo.flac", 44_100, 1.5)
    write_audio(folder / "test" / "same as a.wav", read_audio(folder / "train" / "rain" / "a.flac"))
    write_audio(folder / "train" / "silent.wav", np.full(3000, 2 / 32768))
    write_audio(folder / "train" / "rain" / "b.flac", hiss(9))  # its id is that of b.wav
    (folder / "train" / "broken.wav").write_bytes((folder / "validation" / "c.wav").read_bytes()[:20])
    (folder / "train" / "empty.mp3").touch()
    (folder / "train" / "new\nline.wav").write_bytes((folder / "validation" / "c.wav").read_bytes())
    output = tmp_path_factory.mktemp("output")
    return folder, output, prepare_noise(read_noise_folder(folder), output, progress=False)


def test_good_recordings_are_in_the_manifest_and_their_files_are_what_it_says(prepared: Prepared) -> None:
    folder, output, report = prepared
    clips = read_noise_manifest(output / "noise.jsonl")
    assert [(clip.id, clip.split, clip.kind) for clip in clips] == [
        ("test/d é", "test", "noise"),
        ("test/same as a", "test", "noise"),
        ("test/stereo", "test", "noise"),
        ("train/rain/b", "train", "rain"),
        ("validation/c", "validation", "noise"),
    ]
    assert tuple(clips) == report.clips
    for clip in clips:
        assert clip.audio == output / "audio" / f"{clip.id}.wav"
        assert WaveRecording(clip).num_samples == len(read_wave(clip.audio))
    same = read_wave(output / "audio" / "test" / "d é.wav") / 32768
    np.testing.assert_array_equal(same, read_audio(folder / "test" / "d é.flac"))


def test_what_is_stereo_and_of_another_rate_becomes_mono_at_16_khz(prepared: Prepared) -> None:
    samples = read_wave(prepared[1] / "audio" / "test" / "stereo.wav") / 32768
    assert len(samples) == pytest.approx(1.5 * 16_000, abs=2)
    spectrum = np.abs(np.fft.rfft(samples[:16_000]))
    assert spectrum.argmax() == 440
    assert np.abs(samples).max() == pytest.approx(0.25, abs=0.01)


def test_every_other_recording_is_listed_with_its_reason(prepared: Prepared) -> None:
    folder, output, report = prepared
    rejections = {rejection.id: rejection for rejection in read_rejections(output / "rejected.jsonl")}
    assert {id: rejection.reason for id, rejection in rejections.items()} == {
        "train/broken": Reason.CORRUPT,
        "train/empty": Reason.CORRUPT,
        "train/new\nline": Reason.BAD_NAME,
        "train/rain/a": Reason.DUPLICATE,
        "train/rain/b": Reason.DUPLICATE,
        "train/silent": Reason.NO_AUDIO,
    }
    assert "sounds the same as test/same as a" in rejections["train/rain/a"].detail
    assert "b.wav and " in rejections["train/rain/b"].detail
    assert len(report.clips) + len(report.rejections) == len(read_noise_folder(folder))
    assert list(rejections) == sorted(rejections)


def test_a_second_run_writes_no_recording_again_and_the_same_manifest(
    prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepare, "run_jobs", in_process)
    folder, output, report = prepared
    times = {path: path.stat().st_mtime_ns for path in output.rglob("*.wav")}
    before = (output / "noise.jsonl").read_bytes(), (output / "rejected.jsonl").read_bytes()
    assert prepare_noise(read_noise_folder(folder)[::-1], output, progress=False).clips == report.clips
    assert (output / "noise.jsonl").read_bytes() == before[0]
    assert (output / "rejected.jsonl").read_bytes() == before[1]
    assert {path: path.stat().st_mtime_ns for path in output.rglob("*.wav")} == times
    assert not list(output.rglob(".partial-*"))


def test_an_empty_split_is_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(prepare, "run_jobs", in_process)
    write_audio(tmp_path / "train" / "a.wav", hiss(1))
    with caplog.at_level(logging.INFO):
        prepare_noise(read_noise_folder(tmp_path), tmp_path / "out")
    counts, warning = caplog.messages
    assert counts == f"1 train, 0 validation, 0 test: {tmp_path / 'out' / 'noise.jsonl'}"
    assert warning.startswith(
        "no recording is of split validation or test; subfolders named train, validation and test"
    )


def test_nothing_that_can_be_read_is_an_error_with_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepare, "run_jobs", in_process)
    (tmp_path / "bad.wav").write_bytes(b"bad")
    source = SourceNoise("bad", tmp_path / "bad.wav", "train", "noise")
    with pytest.raises(
        ValueError, match=r"none of 1 recordings could be prepared, such as: .*bad\.wav: not a readable"
    ):
        prepare_noise([source], tmp_path / "out", progress=False)
    with pytest.raises(ValueError, match="there are no recordings to prepare"):
        prepare_noise([], tmp_path / "out", progress=False)
    assert not (tmp_path / "out" / "noise.jsonl").exists()
