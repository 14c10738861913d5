"""A process with MediaPipe in it outlives the profiler's timer that MediaPipe's threads may start."""

import signal
import subprocess
import sys
from threading import Thread

from omni_avsr.mouth.native import ignore_profiling_signal

IGNORE_THEN_SIGNAL = """
import os, signal
from threading import Thread
from omni_avsr.mouth.native import ignore_profiling_signal
thread = Thread(target=ignore_profiling_signal)
thread.start()
thread.join()
os.kill(os.getpid(), signal.SIGPROF)
print("alive")
"""


def test_the_profiling_signal_no_longer_kills() -> None:
    run = subprocess.run([sys.executable, "-c", IGNORE_THEN_SIGNAL], capture_output=True, text=True)
    assert run.stdout == "alive\n", run.stderr


def test_a_handler_of_the_program_stays() -> None:
    seen: list[int] = []
    before = signal.signal(signal.SIGPROF, lambda number, frame: seen.append(number))
    try:
        thread = Thread(target=ignore_profiling_signal)
        thread.start()
        thread.join()
        signal.raise_signal(signal.SIGPROF)
        assert seen == [signal.SIGPROF]
    finally:
        signal.signal(signal.SIGPROF, before)
