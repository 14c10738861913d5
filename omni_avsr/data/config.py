"""Where a corpus is: manifests to train on, test sets to score, and noise for both."""

from __future__ import annotations

from dataclasses import field
from pathlib import Path
from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass

from omni_avsr.config import STRICT, Positive
from omni_avsr.data.manifest import read_manifest
from omni_avsr.data.noise import NoiseSource, SnrOver
from omni_avsr.data.noise_manifest import Split
from omni_avsr.data.noise_set import check_noise_apart, open_noise
from omni_avsr.types import Clip


@dataclass(frozen=True, config=STRICT)
class TestSet:
    """A manifest and the split of it to score. ``noisy`` sets are scored at every SNR as well."""

    manifest: Path
    split: str = "test"
    noisy: bool = False

    @property
    def noise_split(self) -> Split:
        """The split of a noise manifest that the set is scored in: models are chosen in other noise than tested in."""
        return "validation" if self.split == "validation" else "test"


@dataclass(frozen=True, config=STRICT)
class DataConfig:
    """A prepared corpus, for training and for evaluation.

    root, noise_root: folders that the other paths may be written with; nothing else reads them.
    manifests: clips to train on and to validate with, by their splits.
    cache: where decoded clips are kept.
    noise, test_noise: what is mixed into training and into test clips: any audio file, or a noise manifest (.jsonl), of
        which training takes the split "train" and a test its own. Training on test noise is refused but where
        ``shared_noise`` says that both are the same, as published (Omni-AVSR 1.8 D4).
    validation_split: of the manifests; the published recipes validate on "test".
    snr_over: where the ratio of speech and noise is measured, as ``NoiseSource`` has it.
    """

    root: Path | None = None
    noise_root: Path | None = None
    manifests: tuple[Path, ...] = ()
    cache: Path | None = None
    noise: Path | None = None
    test_sets: dict[str, TestSet] = field(default_factory=dict)
    test_noise: Path | None = None
    shared_noise: bool = False
    snr_over: SnrOver = "speech"
    validation_split: str = "validation"
    num_workers: Annotated[int, Field(ge=0)] = 0
    max_validation_clips: Positive = 400

    def read_split(self, split: str) -> list[Clip]:
        """The clips of one split over all manifests.

        Raises:
            ValueError: a manifest or a media file that it names is missing, a line is wrong, or the split is empty.
        """
        return _non_empty(self.manifests, split)

    def read_test_set(self, name: str) -> list[Clip]:
        """The clips of a test set, sorted by id. ValueError as ``read_split``."""
        test_set = self.test_sets[name]
        return sorted(_non_empty((test_set.manifest,), test_set.split), key=lambda clip: clip.id)

    def read_noise(self) -> NoiseSource | None:
        """The noise to train with, if any is named.

        Raises:
            ValueError: a file of it or of the test noise is missing or wrong, or this would train on test noise.
        """
        if self.noise is None:
            return None
        recordings = open_noise(self.noise, ("train",))
        if self.test_noise is not None and not self.shared_noise:
            check_noise_apart(recordings, open_noise(self.test_noise, ("validation", "test")))
        return NoiseSource(recordings, self.snr_over)

    def read_test_noise(self, name: str) -> NoiseSource:
        """The noise to score a test set in.

        Raises:
            ValueError: none is named, a file of it is missing or wrong, or the noise to train with, where that is at
                hand, has a part of it.
        """
        if self.test_noise is None:
            raise ValueError("no noise is named to test in (data.test_noise=...)")
        recordings = open_noise(self.test_noise, (self.test_sets[name].noise_split,))
        if self.noise is not None and self.noise.is_file() and not self.shared_noise:
            check_noise_apart(open_noise(self.noise, ("train",)), recordings)
        return NoiseSource(recordings, self.snr_over)


def _non_empty(manifests: tuple[Path, ...], split: str) -> list[Clip]:
    read = (clip for manifest in manifests for clip in read_manifest(manifest, check_files=True))
    clips = [clip for clip in read if clip.split == split]
    if not clips:
        raise ValueError(f"split {split!r} is empty in {', '.join(map(str, manifests)) or 'no manifest at all'}")
    return clips
