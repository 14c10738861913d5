"""A recording of noise as a corpus ships it: what every reader of a noise corpus hands to the preparation."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import cast

from data_prep.corpora.splits import split_by_name
from omni_avsr.data.noise_manifest import Split


@dataclass(frozen=True)
class SourceNoise:
    """``id``: unique in the corpus; may hold slashes, which become folders. ``kind``: what is heard, in a word."""

    id: str
    media: Path
    split: Split
    kind: str


def split_of(name: str) -> Split:
    """The split of a recording where the corpus has none: by its name alone, as ``split_by_name`` does it."""
    return cast(Split, split_by_name(name))
