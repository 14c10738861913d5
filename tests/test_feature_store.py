"""Stored encoder outputs: what the encoders give for a clip alone, made once, whole or not at all."""

import math
import pickle
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import pytest
import torch
from helpers_checkpoint import write_test_set
from helpers_model import tiny_model

from omni_avsr.data.augment import AugmentConfig, Augmenter
from omni_avsr.data.batching import BatchPlan
from omni_avsr.data.dataset import BatchDataset, FileReader
from omni_avsr.data.feature_store import FeatureDataset, FeatureStore, open_feature_store
from omni_avsr.data.manifest import read_manifest
from omni_avsr.data.noise import NoiseSource
from omni_avsr.data.noise_set import open_noise
from omni_avsr.model import OmniAVSR
from omni_avsr.types import Clip, Features, Modality, Task

Encode = Callable[[Mapping[Modality, Features]], Mapping[Modality, Features]]
VARIANTS = 3


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_test_set(tmp_path_factory.mktemp("corpus") / "tiny").parent


@pytest.fixture(scope="module")
def clips(corpus: Path) -> list[Clip]:
    """Three clips with both modalities and one of sound alone."""
    return [clip for clip in read_manifest(corpus / "manifest.jsonl") if clip.id in ("a1", "a2", "b1", "sound")]


@pytest.fixture(scope="module")
def data(corpus: Path, clips: list[Clip]) -> BatchDataset:
    augment = AugmentConfig(flip=0.5, video_mask_frames=2, audio_mask_samples=300, snr_db=(0.0, None))
    augmenter = Augmenter(augment, NoiseSource(open_noise(corpus / "noise.wav", ("train",))))
    return BatchDataset(clips, FileReader(), augmenter=augmenter, seed=11)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> OmniAVSR:
    return tiny_model(tmp_path_factory.mktemp("models"))


def no_encode(inputs: Mapping[Modality, Features]) -> Mapping[Modality, Features]:
    raise AssertionError("a finished store encoded a clip again")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, data: BatchDataset, model: OmniAVSR) -> FeatureStore:
    folder = tmp_path_factory.mktemp("stores") / "store"
    return open_feature_store(folder, data, VARIANTS, torch.no_grad()(model.encode), iter)


@torch.no_grad()
def test_stored_features_are_those_of_the_clip_encoded_alone(
    store: FeatureStore, data: BatchDataset, model: OmniAVSR
) -> None:
    for index, clip in enumerate(data.clips):
        for variant in range(VARIANTS):
            found = store.features(index, variant)
            expected = model.encode(data[BatchPlan((index,), variant)].inputs)
            assert set(found) == set(expected) == set(clip.modalities)
            for modality, part in expected.items():
                assert found[modality].dtype == torch.bfloat16
                torch.testing.assert_close(found[modality], part.values[0].bfloat16(), rtol=0, atol=0)


@torch.no_grad()
def test_a_batch_of_stored_features_is_the_encoded_batch_up_to_bfloat16(
    store: FeatureStore, data: BatchDataset, clips: list[Clip], model: OmniAVSR
) -> None:
    dataset = FeatureDataset(clips, store, seed=5)
    plan = BatchPlan((0, 1, 2), 4, {Task.ASR: 9}, 3)
    batch = dataset[plan]
    assert (batch.clips, batch.num_label_tokens, batch.num_clips, batch.step) == (tuple(clips[:3]), {Task.ASR: 9}, 3, 4)
    assert batch.inputs == {}
    assert all(batch.supports(task) for task in Task)
    # Each clip has a variant of its own, so the batch to compare with is put together from theirs.
    variants = [which(store, batch.features, row) for row in range(3)]
    examples = [data.example(index, variant) for index, variant in enumerate(variants)]
    for modality in Modality:
        rows = [row for example in examples if (row := example.values(modality)) is not None]
        expected = model.encode({modality: Features.pad(rows)})[modality]
        found = batch.features[modality]
        assert found.values.dtype == torch.float32
        assert torch.equal(found.lengths, expected.lengths)
        scale = expected.values.abs().max()
        torch.testing.assert_close(found.values, expected.values * expected.mask()[..., None], rtol=0, atol=scale / 128)


def which(store: FeatureStore, features: Mapping[Modality, Features], row: int) -> int:
    """The variant that a row of a batch is; the clips' places in store and batch are the same."""
    part = features[Modality.AUDIO]
    values = part.values[row, : int(part.lengths[row])]
    (found,) = [v for v in range(VARIANTS) if torch.equal(store.features(row, v)[Modality.AUDIO].float(), values)]
    return found


def test_each_variant_tells_its_noise(store: FeatureStore, data: BatchDataset, clips: list[Clip]) -> None:
    levels = {(i, v): store.snr_db(i, v) for i in range(len(clips)) for v in range(VARIANTS)}
    assert set(levels.values()) == {0.0, math.inf}
    for (index, variant), level in levels.items():
        assert data.example(index, variant).snr_db == level
    batch = FeatureDataset(clips, store, seed=5)[BatchPlan((0, 1, 2), 4)]
    assert batch.snr_db == tuple(levels[row, which(store, batch.features, row)] for row in range(3))


def test_variants_differ_by_their_augmentation(store: FeatureStore) -> None:
    for modality in Modality:
        first, *others = (store.features(0, variant)[modality] for variant in range(VARIANTS))
        assert any(not torch.equal(first, other) for other in others)


def test_seed_and_step_decide_the_variant(store: FeatureStore, clips: list[Clip]) -> None:
    def drawn(seed: int) -> list[tuple[int, ...]]:
        dataset = FeatureDataset(clips, store, seed)
        batches = [dataset[BatchPlan((0, 1, 2), step)] for step in range(20)]
        return [tuple(which(store, batch.features, row) for row in range(3)) for batch in batches]

    variants = drawn(5)
    assert drawn(5) == variants
    assert drawn(6) != variants
    for row in range(3):
        assert {step[row] for step in variants} == set(range(VARIANTS))
    assert any(len(set(step)) > 1 for step in variants), "the clips of a batch draw together"


def test_a_clip_of_sound_alone_makes_a_batch_of_sound_alone(store: FeatureStore, clips: list[Clip]) -> None:
    index = [clip.id for clip in clips].index("sound")
    batch = FeatureDataset(clips, store, seed=1)[BatchPlan((index,), 0)]
    assert set(batch.features) == {Modality.AUDIO}
    assert [task for task in Task if batch.supports(task)] == [Task.ASR]


def test_a_model_without_video_stores_none(clips: list[Clip], tmp_path: Path) -> None:
    hearing = tiny_model(tmp_path, video_encoder=None)
    data = BatchDataset(clips, FileReader())
    store = open_feature_store(tmp_path / "store", data, 1, torch.no_grad()(hearing.encode), iter)
    assert set(store.features(0, 0)) == {Modality.AUDIO}
    assert sorted(path.name for path in (tmp_path / "store").iterdir()) == ["audio.bf16", "index.json"]


def test_a_second_opening_encodes_nothing(store: FeatureStore, data: BatchDataset) -> None:
    again = open_feature_store(store.folder, data, VARIANTS, no_encode, iter)
    for modality, values in store.features(2, 1).items():
        assert torch.equal(again.features(2, 1)[modality], values)


def test_an_interrupted_store_leaves_nothing_and_the_next_one_is_whole(
    store: FeatureStore, data: BatchDataset, model: OmniAVSR, tmp_path: Path
) -> None:
    encode = torch.no_grad()(model.encode)

    def interrupted(indices: Iterable[int]) -> Iterable[int]:
        for index in indices:
            if index == 2:
                raise KeyboardInterrupt
            yield index

    with pytest.raises(KeyboardInterrupt):
        open_feature_store(tmp_path / "store", data, VARIANTS, encode, interrupted)
    assert list(tmp_path.iterdir()) == []
    # A folder without an index, as a broken copy would leave it, is made anew.
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "audio.bf16").write_bytes(b"1234")
    made = open_feature_store(tmp_path / "store", data, VARIANTS, encode, iter)
    for file in ("index.json", "audio.bf16", "video.bf16"):
        assert (made.folder / file).read_bytes() == (store.folder / file).read_bytes()


def test_another_process_that_was_faster_is_as_good(
    store: FeatureStore, data: BatchDataset, model: OmniAVSR, tmp_path: Path
) -> None:
    encode = torch.no_grad()(model.encode)

    def overtaken(indices: Iterable[int]) -> Iterable[int]:
        yield from indices
        open_feature_store(tmp_path / "store", data, VARIANTS, encode, iter)

    made = open_feature_store(tmp_path / "store", data, VARIANTS, encode, overtaken)
    assert torch.equal(made.features(1, 2)[Modality.VIDEO], store.features(1, 2)[Modality.VIDEO])
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


def test_loader_processes_get_the_files_name_instead_of_their_contents(store: FeatureStore) -> None:
    data = pickle.dumps(store)
    assert len(data) < 1000
    assert torch.equal(pickle.loads(data).features(0, 0)[Modality.VIDEO], store.features(0, 0)[Modality.VIDEO])
