"""Which settings are decoded, in which order, and what a hypothesis says of its clip."""

from pathlib import Path
from typing import Any

import pytest
from helpers_model import model_values, tiny_batch, tiny_model

from omni_avsr.build import build_model
from omni_avsr.config import ModelConfig, from_mapping
from omni_avsr.decode import DecodeConfig, decode, settings_of
from omni_avsr.model import OmniAVSR
from omni_avsr.types import Rates, Task


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


def model_with(folder: Path, audio_rates: list[int], video_rates: list[int], **settings: Any) -> OmniAVSR:
    return tiny_model(folder, compression={"audio_rates": audio_rates, "video_rates": video_rates}, **settings)


def labels(model: OmniAVSR, tasks: tuple[Task, ...] = tuple(Task)) -> list[str]:
    return [f"{task.upper()} {rates.label(task)}" for task, rates in settings_of(model, tasks)]


def test_the_settings_are_the_columns_of_the_paper_in_its_order(folder: Path) -> None:
    assert labels(model_with(folder, [4, 16], [2, 5])) == [
        *("ASR 4", "ASR 16", "VSR 2", "VSR 5"),
        *("AVSR 4,2", "AVSR 4,5", "AVSR 16,2", "AVSR 16,5"),
    ]


def test_three_rates_give_each_task_all_of_its_own_combinations_once(folder: Path) -> None:
    model = model_with(folder, [2, 4, 8], [1, 2, 3])
    found = labels(model)
    assert len(found) == len(set(found)) == 3 + 3 + 9
    assert labels(model, (Task.VSR,)) == ["VSR 1", "VSR 2", "VSR 3"]


def test_every_setting_passes_the_models_own_check_of_rates(folder: Path) -> None:
    model = model_with(folder, [3], [1, 4])
    for task, rates in settings_of(model, tuple(Task)):
        model.config.compression.check(rates, task)


@pytest.mark.parametrize(("absent", "task"), [("video_encoder", Task.ASR), ("audio_encoder", Task.VSR)])
def test_a_model_of_one_modality_decodes_its_task(absent: str, task: Task, folder: Path) -> None:
    values = model_values(folder)
    values[absent] = None
    model = build_model(from_mapping(ModelConfig, values), seed=1).eval()
    batch = tiny_batch()
    features = model.encode(batch.inputs)
    settings = settings_of(model, model.config.tasks)
    assert [found for found, _ in settings] == [task, task]
    for _, rates in settings:
        assert len(decode(model, batch.clips, features, task, rates, DecodeConfig(max_new_tokens=3))) == 3


def test_a_hypothesis_holds_the_clip_the_setting_and_what_generate_wrote(folder: Path) -> None:
    model, batch = tiny_model(folder), tiny_batch()
    features = model.encode(batch.inputs)
    config = DecodeConfig(num_beams=2, max_new_tokens=5)
    hypotheses = decode(model, batch.clips, features, Task.AVSR, Rates(2, 3), config, -5.0, "swapped video")
    assert [h.text for h in hypotheses] == model.generate(features, Task.AVSR, Rates(2, 3), 2, 5)
    assert [(h.id, h.reference, h.split) for h in hypotheses] == [(c.id, c.text, "train") for c in batch.clips]
    assert {(h.task, h.rates, h.snr_db, h.condition) for h in hypotheses} == {(Task.AVSR, "2,3", -5.0, "swapped video")}


@pytest.mark.parametrize("field", ["num_beams", "max_new_tokens"])
def test_counts_must_be_positive(field: str) -> None:
    with pytest.raises(ValueError, match=field):
        DecodeConfig(**{field: 0})
