"""Tables of labels: lines of tab- or comma-separated cells, each readable or a problem of its own."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

from data_prep.rejection import Problem, Reason


@dataclass(frozen=True)
class Row:
    """One line of a table: its cells by column, or what is wrong with it. ``number`` counts from 1."""

    number: int
    cells: dict[str, str]
    problem: Problem | None = None


def read_table(path: Path, columns: tuple[str, ...]) -> list[Row]:
    """The rows of a table whose header has at least ``columns``: comma-separated if named .csv, else tab-separated.

    A line that is not UTF-8, or has another number of cells than the header, comes back as a row with a problem.
    Empty lines are left out. ValueError if there is no such table, or its header lacks a column.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such table; expected columns {', '.join(columns)}")
    comma = path.suffix.lower() == ".csv"
    lines = path.read_bytes().removeprefix(b"\xef\xbb\xbf").splitlines()
    try:
        header = _cells(lines[0].decode() if lines else "", comma)
    except (ValueError, csv.Error) as error:
        raise ValueError(f"{path}:1: the header cannot be read ({error}); the table must be UTF-8") from error
    missing = [column for column in columns if column not in header]
    if missing:
        raise ValueError(f"{path}:1: no column {', '.join(missing)}; the header is {header}")
    return [_row(path, number, line, header, comma) for number, line in enumerate(lines[1:], 2) if line.strip()]


def _row(path: Path, number: int, line: bytes, header: list[str], comma: bool) -> Row:
    try:
        cells = _cells(line.decode(), comma)
        if len(cells) != len(header):
            raise ValueError(f"{len(cells)} cells under {len(header)} columns")
        return Row(number, dict(zip(header, cells, strict=True)))
    except (ValueError, csv.Error) as error:
        return Row(number, {}, Problem(Reason.BAD_LABEL, f"{path}:{number}: {error}"))


def _cells(line: str, comma: bool) -> list[str]:
    """Quotes are for commas; in a tab-separated file they are part of a text."""
    if not comma:
        return line.split("\t")
    return next(csv.reader([line], strict=True), [])
