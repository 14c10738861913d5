"""Word error rates that ``omni-avsr evaluate`` measured, by the settings that a plan chooses among."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from omni_avsr.edge.plan import WerKey
from omni_avsr.report import read_report
from omni_avsr.types import MATCHED

_BEAMS = re.compile(r"(\d+) beam")
_FLOATS = ("float32", "bfloat16")


def known_wers(tables: Iterable[Path], test_set: str | None = None) -> dict[WerKey, float]:
    """Of clean, matched clips in the ``table.json`` files of one checkpoint; of a later file where two tell.

    A file that does not name the format of the LLM's weights tells of floats, of either size.

    Args:
        test_set: which of a file's test sets counts; None for its first.

    Raises:
        ValueError: a file is no table of results, or has no such test set.
    """
    found: dict[WerKey, float] = {}
    for path in tables:
        report = read_report(path)
        name = test_set if test_set is not None else next(iter(report.scores), "of any name")
        if name not in report.scores:
            raise ValueError(f"{path} has no test set {name}; there are {', '.join(report.scores) or 'none'}")
        beams = _BEAMS.match(str(report.metadata.get("decoding", "")))
        for score in report.scores[name]:
            setting = score.setting
            if setting.snr_db is None and setting.condition == MATCHED:
                for weight_format in _formats(report.metadata):
                    key = WerKey(setting.task, setting.rates, int(beams[1]) if beams else 1, weight_format)
                    found[key] = score.wer
    return found


def _formats(metadata: Mapping[str, Any]) -> tuple[str, ...]:
    quantization, dtype = metadata.get("quantization", "none"), metadata.get("llm_dtype")
    if quantization != "none":
        return (str(quantization),)
    return (str(dtype),) if dtype is not None else _FLOATS
