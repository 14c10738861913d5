"""What other packages wrote with ``torch.save``, read without these packages, and without running anything of it."""

from __future__ import annotations

import zipfile
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

PACKAGES = frozenset(
    {
        "argparse",
        "collections",
        "enum",
        "fairseq",
        "lightning",
        "lightning_fabric",
        "numpy",
        "omegaconf",
        "pathlib",
        "pytorch_lightning",
        "typing",
    }
)
"""Whose classes checkpoints name for their settings, which nothing here reads."""
_PLAIN_TYPES = {
    f"builtins.{kind.__name__}" for kind in (bool, bytes, dict, float, int, list, object, set, str, tuple, type)
}
"""What omegaconf notes as the types of its values."""


def load_with_stubs(path: Path) -> Any:
    """The content of a checkpoint, in which objects of the classes of ``PACKAGES`` are empty stubs.

    Raises:
        ValueError: the file cannot be read so, or asks for anything else.
    """
    try:
        # Files from before torch 1.6 are no archives; they may hold tensors and plain values only.
        is_archive = zipfile.is_zipfile(path)
        named = torch.serialization.get_unsafe_globals_in_checkpoint(path) if is_archive else []
        if foreign := sorted(name for name in named if name.split(".")[0] not in PACKAGES and name not in _PLAIN_TYPES):
            raise ValueError(f"it asks for {', '.join(foreign)}, which no checkpoint needs")
        with torch.serialization.safe_globals([_stub(name) for name in named]):
            # Mapped: of what nobody uses, such as an optimizer's state, nothing is read.
            return torch.load(path, map_location="cpu", weights_only=True, mmap=is_archive)
    except (OSError, RuntimeError, ValueError, EOFError, UnpicklingError) as error:
        raise ValueError(f"{path} is no checkpoint that can be read safely: {error}") from error


def _stub(name: str) -> Any:
    """What stands for a class in the file, as ``safe_globals`` takes it."""
    # torch fills nothing but plain dicts.
    return (_empty_dict if name == "collections.defaultdict" else type("Stub", (_Stub,), {}), name)


def _empty_dict(*_: object) -> dict[Any, Any]:
    return {}


class _Stub:
    """Stands for an object of a class that is not here."""

    def __init__(self, *args: object) -> None: ...

    def __setstate__(self, state: object) -> None: ...
