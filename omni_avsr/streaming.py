"""Weights that are read a few rows at a time, so that no second copy of a tensor is ever in memory.

Files are read rather than mapped: what is mapped and was touched counts as memory of the process until all of the file
is let go.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from omni_avsr.weights import weight_files

SLAB_ELEMENTS = 1 << 20
"""Of a slab of rows that is read, or computed with, at once: 2 MiB in bfloat16, which a processor's cache holds."""
ALIGNMENT = 64
"""A slab has a multiple of so many rows, but the last one of a matrix: it then begins where a block of NF4 does."""
_DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


class Rows(Protocol):
    """A tensor somewhere else; its first axis counts rows."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def read(self, first: int, last: int) -> Tensor:
        """The rows from ``first`` to before ``last``, in the dtype they are kept in."""
        ...


@dataclass(frozen=True)
class StoredRows:
    """A tensor in a file of safetensors, whose bytes begin at ``offset``."""

    file: Path
    offset: int
    dtype: torch.dtype
    shape: tuple[int, ...]

    def read(self, first: int, last: int) -> Tensor:
        rows = torch.empty(last - first, *self.shape[1:], dtype=self.dtype)
        size = rows.nbytes
        with self.file.open("rb") as stream:
            stream.seek(self.offset + first * (size // max(len(rows), 1)))
            if stream.readinto(rows.view(torch.uint8).numpy().data) != size:
                raise ValueError(f"{self.file} ends before its tensors do; get it again")
        return rows


@dataclass(frozen=True)
class MergedRows:
    """A matrix with low-rank ones added in float32: W + scaling * B A for each of ``changes``, (scaling, A, B)."""

    base: Rows
    changes: tuple[tuple[float, Tensor, Tensor], ...]

    @property
    def shape(self) -> tuple[int, ...]:
        return self.base.shape

    def read(self, first: int, last: int) -> Tensor:
        rows = self.base.read(first, last).float()
        for scaling, down, up in self.changes:
            rows.addmm_(up[first:last].float(), down.float(), alpha=scaling)
        return rows


def stored_rows(folder: Path) -> dict[str, Rows]:
    """The floating-point tensors in the safetensors of a folder that transformers saved, by name.

    Raises:
        ValueError: there are no weights in the folder.
    """
    return {
        name: rows for file in weight_files(folder) if file.suffix == ".safetensors" for name, rows in in_file(file)
    }


def in_file(file: Path) -> Iterator[tuple[str, Rows]]:
    """The floating-point tensors in a file of safetensors, with their names.

    The format: the length of the header in 8 bytes, the header as JSON, the tensors.
    """
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        header: Mapping[str, Any] = json.loads(stream.read(length))
    for name, facts in header.items():
        if name != "__metadata__" and facts["dtype"] in _DTYPES and facts["shape"]:
            offset = 8 + length + facts["data_offsets"][0]
            yield name, StoredRows(file, offset, _DTYPES[facts["dtype"]], tuple(facts["shape"]))


def slabs(num_rows: int, elements_per_row: int) -> Iterable[tuple[int, int]]:
    """First and last row (exclusive) of each slab of a matrix."""
    step = max(ALIGNMENT, SLAB_ELEMENTS // elements_per_row // ALIGNMENT * ALIGNMENT)
    return ((first, min(first + step, num_rows)) for first in range(0, num_rows, step))


def read_slabs(rows: Rows) -> Iterator[tuple[int, Tensor]]:
    """Each slab with the number of its first row."""
    for first, last in slabs(rows.shape[0], max(1, torch.Size(rows.shape[1:]).numel())):
        yield first, rows.read(first, last)


def copy_rows(tensor: Tensor, rows: Rows) -> None:
    """Give ``tensor`` the values of all of ``rows``, in its own dtype."""
    for first, slab in read_slabs(rows):
        tensor[first : first + len(slab)] = slab


def read_all(rows: Mapping[str, Rows], dtype: torch.dtype) -> dict[str, Tensor]:
    """All tensors as ``dtype``."""
    # All are allocated first: slabs that come and go between them would leave as much memory unused.
    tensors = {name: torch.empty(own.shape, dtype=dtype) for name, own in rows.items()}
    for name, tensor in tensors.items():
        copy_rows(tensor, rows[name])
    return tensors
