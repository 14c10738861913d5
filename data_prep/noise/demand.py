"""Read DEMAND (Thiemann, Ito, Vincent 2013): 18 environments of 5 minutes, each heard by 16 microphones at once."""

from __future__ import annotations

from pathlib import Path

from data_prep.corpora.files import files_below
from data_prep.noise.source import SourceNoise
from omni_avsr.data.noise_manifest import Split

CHANNEL = "ch01.wav"
CATEGORIES = {
    "D": "domestic", "N": "nature", "O": "office", "P": "public", "S": "street", "T": "transportation",
}  # fmt: skip
"""What the first letter of an environment's name stands for."""
SPLITS: dict[str, Split] = {
    **dict.fromkeys(
        ("DKITCHEN", "NFIELD", "NRIVER", "OMEETING", "PCAFETER", "PRESTO", "PSTATION", "STRAFFIC", "TCAR", "TMETRO"),
        "train",
    ),
    **dict.fromkeys(("DWASHING", "NPARK", "OHALLWAY"), "validation"),
    **dict.fromkeys(("DLIVING", "OOFFICE", "SCAFE", "SPSQUARE", "TBUS"), "test"),
}
"""Whole environments. The 13 of VoiceBank-DEMAND (Valentini-Botinhao et al. 2016) are train and test as they are there;
three of the other five are validation."""


def read_demand(folder: Path) -> list[SourceNoise]:
    """The environments below ``folder``, ``<environment>/ch01.wav``: the other channels hold the same sounds again.

    ValueError if there is none.
    """
    found = [(Path(name).parent.name, name) for name in files_below(folder) if Path(name).name == CHANNEL]
    sources = [
        SourceNoise(place, folder / name, SPLITS[place], CATEGORIES[place[0]])
        for place, name in found
        if place in SPLITS
    ]
    if not sources:
        raise ValueError(f"{folder}: no recordings of DEMAND; expected folders such as DKITCHEN/{CHANNEL}")
    return sources
