"""Outputs of frozen encoders, computed once per clip and augmented variant, memory-mapped in bfloat16."""

from __future__ import annotations

import json
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from omni_avsr.data.batching import BatchPlan
from omni_avsr.data.dataset import BatchDataset, example_generator
from omni_avsr.types import Batch, Clip, Features, Modality

Encode = Callable[[Mapping[Modality, Features]], Mapping[Modality, Features]]
Track = Callable[[Iterable[int]], Iterable[int]]

FORMAT_VERSION = 2
"""Part of what names a store: one that an older version wrote is not read, but made anew."""


class FeatureStore:
    """Features of clip ``index`` in variant ``variant``, read without encoding anything."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        index = json.loads((folder / "index.json").read_text())
        self.num_variants: int = index["num_variants"]
        self._snr_db = [math.inf if level is None else level for level in index["snr_db"]]
        self._parts = {
            Modality(name): (
                np.memmap(folder / f"{name}.bf16", np.uint16, "r").reshape(-1, part["dim"]),
                np.cumsum([0, *part["lengths"]]),
            )
            for name, part in index["parts"].items()
        }

    def __reduce__(self) -> tuple[type[FeatureStore], tuple[Path]]:
        """Loader processes map the files again: a pickled memory map would carry all of its data."""
        return FeatureStore, (self.folder,)

    def snr_db(self, index: int, variant: int) -> float:
        """At which noise was added to the audio; infinite when none was."""
        return self._snr_db[index * self.num_variants + variant]

    def features(self, index: int, variant: int) -> dict[Modality, Tensor]:
        """[T, D] bfloat16 of each modality that the clip has."""
        row = index * self.num_variants + variant
        found = {}
        for modality, (values, offsets) in self._parts.items():
            piece = np.array(values[offsets[row] : offsets[row + 1]])
            if len(piece):
                found[modality] = torch.from_numpy(piece).view(torch.bfloat16)
        return found


def open_feature_store(
    folder: Path, data: BatchDataset, num_variants: int, encode: Encode, track: Track
) -> FeatureStore:
    """The store in ``folder``; made now if it is not there, whole or not at all.

    Args:
        data: the clips; with an augmenter, variant v of a clip is its example at step v.
        num_variants: augmented variants of each clip.
        encode: frozen encoders, raw inputs to features. Clips pass one at a time, so that what is stored does not
            depend on batches.
        track: wraps the loop over clips to show progress.
    """
    if not (folder / "index.json").is_file():
        shutil.rmtree(folder, ignore_errors=True)
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=folder.parent))
        try:
            _write(partial, data, num_variants, encode, track)
            os.replace(partial, folder)
        except OSError:
            if not (folder / "index.json").is_file():  # otherwise another process was faster, which is as good
                raise
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return FeatureStore(folder)


def _write(folder: Path, data: BatchDataset, num_variants: int, encode: Encode, track: Track) -> None:
    files = {modality: (folder / f"{modality}.bf16").open("wb") for modality in Modality}
    lengths: dict[Modality, list[int]] = {modality: [] for modality in Modality}
    dims: dict[Modality, int] = {}
    levels: list[float | None] = []  # JSON has no infinity
    for index in track(range(len(data))):
        for variant in range(num_variants):
            batch = data[BatchPlan((index,), variant)]
            levels += [level if math.isfinite(level) else None for level in batch.snr_db]
            features = encode(batch.inputs)
            for modality in Modality:
                lengths[modality].append(int(features[modality].lengths[0]) if modality in features else 0)
            for modality, part in features.items():
                values = part.values[0, : lengths[modality][-1]].to(torch.bfloat16).contiguous()
                dims[modality] = values.shape[1]
                files[modality].write(values.view(torch.uint16).cpu().numpy().tobytes())
    for modality, file in files.items():
        file.close()
        if modality not in dims:
            (folder / f"{modality}.bf16").unlink()
    parts = {str(modality): {"dim": dim, "lengths": lengths[modality]} for modality, dim in dims.items()}
    (folder / "index.json").write_text(json.dumps({"num_variants": num_variants, "snr_db": levels, "parts": parts}))


class FeatureDataset(Dataset[Batch]):
    """Makes the batch that a plan names from stored features; a clip's variant is drawn from (seed, step, clip)."""

    def __init__(self, clips: list[Clip], store: FeatureStore, seed: int) -> None:
        self.clips, self.store, self.seed = clips, store, seed

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, plan: BatchPlan) -> Batch:
        rows, snr_db = [], []
        for index in plan.indices:
            generator = example_generator(self.seed, plan.step, index)
            variant = int(torch.randint(self.store.num_variants, (), generator=generator))
            rows.append(self.store.features(index, variant))
            snr_db.append(self.store.snr_db(index, variant))
        features = {modality: Features.pad([row[modality].float() for row in rows]) for modality in rows[0]}
        clips = tuple(self.clips[index] for index in plan.indices)
        return Batch(clips, {}, plan.num_label_tokens, plan.num_clips, plan.step, features, tuple(snr_db))
