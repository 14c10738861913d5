"""The allocator's setting, in processes of its own: what is freed in the middle is the process's no more."""

import ctypes
import subprocess
import sys

import pytest

from omni_avsr.edge.allocator import LARGE_BLOCK, return_large_blocks

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory is measured by /proc")

BLOCKS = 20
FREE_EVERY_SECOND_BLOCK = f"""
import sys
import torch
from omni_avsr.edge.allocator import return_large_blocks
from omni_avsr.edge.meter import resident
if sys.argv[1] == "set":
    assert return_large_blocks()
size = {3 * LARGE_BLOCK // 2}
torch.ones(size, dtype=torch.uint8)  # freed at once: glibc learns from it to keep such blocks
blocks = [torch.ones(size, dtype=torch.uint8) for _ in range({2 * BLOCKS})]
before = resident().anonymous
del blocks[::2]
print((before - resident().anonymous) / size)
"""


def freed(setting: str) -> float:
    command = [sys.executable, "-c", FREE_EVERY_SECOND_BLOCK, setting]
    return float(subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout)


def test_large_blocks_that_are_freed_leave_the_process() -> None:
    if not hasattr(ctypes.CDLL(None), "mallopt"):
        pytest.skip("this C library is not glibc")
    assert freed("set") > BLOCKS - 2
    assert freed("unset") < 2  # or the setting would not be needed


def test_other_systems_have_no_such_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not return_large_blocks()
