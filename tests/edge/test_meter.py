"""The meter: peaks are right, what passes a limit is killed with all it started, and what does not is left alone."""

import os
import sys
import time
from pathlib import Path

import pytest

from omni_avsr.edge import meter
from omni_avsr.edge.meter import GIB, Outcome, resident, run_limited

MIB = 1024**2
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory is measured by /proc")


def python(code: str, limit: int, **options: str) -> Outcome:
    return run_limited([sys.executable, "-c", code], limit, options)


def test_the_peak_of_a_child_is_what_it_touched_at_most() -> None:
    outcome = python("b = bytearray(200 << 20); del b; import time; time.sleep(0.2)", GIB)
    idle = python("import time; time.sleep(0.2)", GIB)
    assert not outcome.killed
    assert outcome.exit_code == 0
    assert outcome.peak - idle.peak == pytest.approx(200 * MIB, abs=4 * MIB)
    outcome.check()


def test_address_space_that_is_not_touched_does_not_count() -> None:
    outcome = python("import mmap; m = mmap.mmap(-1, 4 << 30); import time; time.sleep(0.2)", 100 * MIB)
    assert not outcome.killed
    assert outcome.peak < 50 * MIB


def test_pages_of_a_mapped_file_count(tmp_path: Path) -> None:
    file = tmp_path / "weights"
    file.write_bytes(bytes(100 * MIB))
    code = f"import mmap; f = open({str(file)!r}, 'rb'); m = mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ); "
    outcome = python(code + "sum(m[i] for i in range(0, len(m), 4096)); import time; time.sleep(0.2)", GIB)
    assert outcome.peak > 100 * MIB


def test_a_child_that_passes_the_limit_is_killed() -> None:
    code = "held = []\nwhile True:\n    held.append(bytearray(10 << 20))\n    import time; time.sleep(0.01)"
    outcome = python(code, 150 * MIB)
    assert outcome.killed
    assert 150 * MIB < outcome.peak < 400 * MIB
    assert outcome.seconds < 30
    with pytest.raises(ValueError, match=r"killed after .* GiB resident, the limit is 0\.15 GiB"):
        outcome.check()


def test_children_of_the_child_count_and_are_killed_with_it(tmp_path: Path) -> None:
    grandchild = (
        "import os, sys, time; open(sys.argv[1], 'w').write(str(os.getpid())); b = bytearray(100 << 20); time.sleep(60)"
    )
    names = [tmp_path / str(number) for number in range(2)]
    code = (
        "import subprocess, sys\n"
        f"jobs = [subprocess.Popen([sys.executable, '-c', {grandchild!r}, name], start_new_session=True)"
        f" for name in {[str(name) for name in names]!r}]\n"
        "[job.wait() for job in jobs]"
    )
    outcome = python(code, 180 * MIB)
    assert outcome.killed
    assert outcome.seconds < 30
    deadline = time.monotonic() + 10
    while any(_alive(int(name.read_text())) for name in names) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(_alive(int(name.read_text())) for name in names)


def _alive(process: int) -> bool:
    status = Path(f"/proc/{process}/status")
    return status.exists() and "State:\tZ" not in status.read_text()


def test_a_forked_child_does_not_count_the_pages_that_it_shares() -> None:
    code = (
        "import os, time\nheld = bytearray(200 << 20)\n"
        "if os.fork() == 0:\n    time.sleep(0.4)\n    os._exit(0)\nos.wait()"
    )
    outcome = python(code, 300 * MIB)
    assert not outcome.killed
    assert 200 * MIB < outcome.peak < 260 * MIB


def test_a_failure_is_told_with_the_last_lines() -> None:
    outcome = python("import sys; print('out'); sys.exit('it broke')", GIB)
    assert (outcome.output, outcome.exit_code, outcome.killed) == ("out\n", 1, False)
    with pytest.raises(ValueError, match=r"exit code 1 (.|\n)*it broke"):
        outcome.check()


def test_variables_reach_the_child() -> None:
    assert python("import os; print(os.environ['ASKED'])", GIB, ASKED="yes").output == "yes\n"


def test_memory_of_this_process() -> None:
    found = resident()
    assert found.peak >= found.now >= found.anonymous
    assert found.now == pytest.approx(found.anonymous + found.file, rel=0.01)


def test_a_process_that_ended_is_told() -> None:
    child = os.spawnl(os.P_NOWAIT, sys.executable, sys.executable, "-c", "")
    os.waitpid(child, 0)
    with pytest.raises(ValueError, match="it has ended"):
        resident(child)


def test_a_system_without_proc_is_told_before_anything_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meter, "PROC", tmp_path)
    with pytest.raises(ValueError, match="only Linux has it"):
        python(f"open({str(tmp_path / 'ran')!r}, 'w')", GIB)
    assert not (tmp_path / "ran").exists()
