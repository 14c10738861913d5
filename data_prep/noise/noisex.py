"""Read NOISEX-92 (Varga, Steeneken 1993): 15 recordings of 4 minutes."""

from __future__ import annotations

from pathlib import Path

from data_prep.corpora.files import files_below, stem_of, suffix_of
from data_prep.noise.source import SourceNoise
from omni_avsr.data.noise_manifest import Split

SPLITS: dict[str, Split] = {
    **dict.fromkeys(("buccaneer1", "buccaneer2", "destroyerengine", "destroyerops", "hfchannel"), "train"),
    **dict.fromkeys(("leopard", "m109", "machinegun", "pink", "white"), "train"),
    "f16": "validation",
    **dict.fromkeys(("babble", "factory1", "factory2", "volvo"), "test"),
}
"""Test are the noises in which models are compared most; two recordings of one place or one machine stay together."""


def read_noisex(folder: Path) -> list[SourceNoise]:
    """The recordings below ``folder``, ``<noise>.wav`` in upper or lower case. ValueError if there is none.

    The corpus is also spread as MATLAB files, which are not read.
    """
    found = [(stem_of(name).lower(), name) for name in files_below(folder) if suffix_of(name) == ".wav"]
    sources = [SourceNoise(noise, folder / name, SPLITS[noise], noise) for noise, name in found if noise in SPLITS]
    if not sources:
        raise ValueError(f"{folder}: no recordings of NOISEX-92; expected WAV files such as babble.wav and volvo.wav")
    return sources
