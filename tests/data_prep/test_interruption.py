"""A preparation that is killed in the middle: no half file, no orphans, and the next run goes on where it was."""

import json
import os
import shutil
import signal
import subprocess
import sysconfig
import time
from pathlib import Path

import numpy as np

from omni_avsr.data.manifest import read_manifest
from omni_avsr.media import read_audio, write_audio

NUM_CLIPS = 40
WORKERS = 2


def corpus(folder: Path) -> Path:
    """Clips of sound that are long enough for a run not to be over at once."""
    random = np.random.default_rng(0)
    rows = ["file\ttext\tsplit"]
    write_audio(folder / "long.flac", random.uniform(-0.5, 0.5, 16_000 * 20).astype(np.float32))
    for number in range(NUM_CLIPS):
        shutil.copyfile(folder / "long.flac", folder / f"{number}.flac")
        rows.append(f"{number}.flac\tclip number {number}\ttest")
    (folder / "transcripts.tsv").write_text("\n".join(rows))
    return folder


def start(source: Path, output: Path) -> subprocess.Popen[str]:
    script = Path(sysconfig.get_path("scripts")) / "omni-avsr"
    arguments = ["prepare", "corpus=folder", f"source={source}", f"output={output}", f"workers={WORKERS}"]
    return subprocess.Popen(
        [script, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def processes_of(session: int) -> list[int]:
    """Processes of a session that are alive, by the system's own list."""
    alive = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == session and fields[0] != "Z":
            alive.append(int(status.parent.name))
    return alive


def wait_until(condition: object, seconds: float = 60.0) -> None:
    assert callable(condition)
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.02)


def test_a_killed_run_leaves_no_half_file_and_the_next_one_finishes_it(tmp_path: Path) -> None:
    source, output, done = corpus(tmp_path / "in"), tmp_path / "out", tmp_path / "out" / "done"
    run = start(source, output)
    wait_until(lambda: len(list(done.glob("*.json"))) >= 5)
    os.kill(run.pid, signal.SIGKILL)
    run.wait()
    wait_until(lambda: not processes_of(run.pid))

    finished = {path.stem for path in done.glob("*.json")}
    audio = {path.stem for path in (output / "audio").glob("*")}
    assert 5 <= len(finished) < NUM_CLIPS
    assert finished <= audio
    assert len(audio - finished) <= WORKERS
    for name in audio:
        assert len(read_audio(output / "audio" / f"{name}.flac")) == 20 * 16_000
    for name in finished:
        assert "clip" in json.loads((done / f"{name}.json").read_text())
    before = {path: path.stat().st_mtime_ns for path in done.glob("*.json")}

    again = start(source, output)
    told, _ = again.communicate(timeout=120)
    assert again.returncode == 0, told
    assert f"{len(finished)} found finished" in " ".join(told.split())
    assert len(read_manifest(output / "manifest.jsonl", check_files=True)) == NUM_CLIPS
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert sorted(path.name for path in output.iterdir()) == [
        "audio", "done", "manifest.jsonl", "quality.html", "rejected.jsonl",
    ]  # fmt: skip
    assert not list(output.rglob("*.partial*"))
    assert not list(output.rglob(".*"))
