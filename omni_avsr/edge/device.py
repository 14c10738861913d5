"""A device as it was measured once: the ledger's constants, and what they were measured on, as a JSON file."""

from __future__ import annotations

import json
import os
import platform
import re
from dataclasses import field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydantic.dataclasses import dataclass

from omni_avsr.config import STRICT, from_mapping, to_mapping
from omni_avsr.edge.ledger import MemoryConstants
from omni_avsr.edge.timing import TimeConstants
from omni_avsr.files import write_atomically

_LIBRARIES = ("torch", "transformers", "peft")


@dataclass(frozen=True, config=STRICT)
class Device:
    """What ``omni-avsr calibrate-device`` writes. measured: the runs behind the constants, as they came."""

    memory: MemoryConstants
    time: TimeConstants = field(default_factory=TimeConstants)
    facts: dict[str, Any] = field(default_factory=dict)
    commit: str = "unknown"
    date: str = "unknown"
    measured: tuple[dict[str, Any], ...] = ()


DEFAULT = Device(
    memory=MemoryConstants(libraries=808 << 20, overhead=70 << 20, scale=1.5),
    facts={"cpu": "AMD EPYC, 2 cores", "torch": "2.14"},
)
"""For boards that were not measured: of a server's CPU, on which nothing but memory can be foretold of others."""


def write_device(path: Path, device: Device) -> None:
    """Write ``device`` atomically."""
    write_atomically(path, json.dumps(to_mapping(device), indent=2, allow_nan=False) + "\n")


def read_device(path: Path) -> Device:
    """Read what ``write_device`` wrote. ValueError, with the file's name, for anything else."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as a device: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} is no device: calibrate-device writes a JSON object")
    return from_mapping(Device, values, str(path))


def device_facts() -> dict[str, Any]:
    """What figures depend on besides the code."""
    return {
        "cpu": _first("/proc/cpuinfo", r"^model name\s*:\s*(.+)$") or platform.processor() or platform.machine(),
        "board": _first("/proc/device-tree/model", r"^([^\0]+)"),
        "cores": os.cpu_count(),
        "threads": os.environ.get("OMP_NUM_THREADS"),
        "memory_kib": _first("/proc/meminfo", r"^MemTotal:\s+(\d+) kB$"),
        "system": platform.platform(),
        "python": platform.python_version(),
        **{name: version(name) for name in _LIBRARIES},
    }


def _first(path: str, pattern: str) -> str | None:
    """What ``pattern`` finds first in a file of the system, None where there is no such file or line."""
    try:
        found = re.search(pattern, Path(path).read_text(encoding="utf-8", errors="replace"), re.MULTILINE)
    except OSError:
        return None
    return found[1] if found else None
