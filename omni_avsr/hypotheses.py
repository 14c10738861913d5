"""The JSONL file of hypotheses: written at once or line by line, read strictly, resumed after a kill."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import BinaryIO

from pydantic import TypeAdapter, ValidationError

from omni_avsr.files import write_atomically
from omni_avsr.types import Hypothesis

logger = logging.getLogger(__name__)
_HYPOTHESIS = TypeAdapter(Hypothesis)


def write_hypotheses(path: Path, hypotheses: Iterable[Hypothesis]) -> None:
    """Write a JSONL file, one hypothesis a line, in one atomic step."""
    write_atomically(path, b"".join(_line(hypothesis) for hypothesis in hypotheses))


def append_hypothesis(file: BinaryIO, hypothesis: Hypothesis) -> None:
    """Add one line to a file opened with ``open(path, "ab")`` and hand it to the system, so that a kill keeps it."""
    file.write(_line(hypothesis))
    file.flush()


def read_hypotheses(path: Path, *, drop_torn_line: bool = False) -> list[Hypothesis]:
    """Read a JSONL file; ValueError with file and line for whatever is not a hypothesis.

    drop_torn_line: a last line that a kill broke off in the middle of its write is dropped, with a warning.
    """
    hypotheses = []
    # Split at \n alone: str.splitlines also breaks at separators that may stand inside a JSON string.
    lines = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            hypotheses.append(_HYPOTHESIS.validate_json(line, strict=True, extra="forbid"))
        except ValidationError as error:
            first = error.errors()[0]
            problem = " ".join([*(f"{key}:" for key in first["loc"]), first["msg"]])
            torn = number == len(lines) and first["type"] == "json_invalid"
            if not (drop_torn_line and torn):
                raise ValueError(f"{path}:{number}: not a hypothesis: {problem}") from error
            logger.warning("%s:%d: dropped a torn last line (%s)", path, number, problem)
    return hypotheses


def resume_hypotheses(path: Path) -> list[Hypothesis]:
    """What an interrupted evaluation has written so far, nothing if there is no file; appending is safe afterwards."""
    if not path.exists():
        return []
    hypotheses = read_hypotheses(path, drop_torn_line=True)
    if not path.read_bytes().endswith(b"\n"):
        write_hypotheses(path, hypotheses)
    return hypotheses


def _line(hypothesis: Hypothesis) -> bytes:
    return json.dumps(asdict(hypothesis), ensure_ascii=False, allow_nan=False).encode() + b"\n"
