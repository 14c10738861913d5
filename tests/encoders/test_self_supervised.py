"""wav2vec 2.0, HuBERT and WavLM keep the contract at every clip length, and equal transformers' own models."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers_checkpoint import outputs, train
from helpers_model import (
    SELF_SUPERVISED,
    save_tiny_self_supervised,
    single,
    tiny_batch,
    tiny_model,
    tiny_self_supervised,
)
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    HubertForCTC,
    PreTrainedModel,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForCTC,
    Wav2Vec2ForPreTraining,
    WavLMForCTC,
)

from omni_avsr.checkpoint import load_checkpoint, read_info, save_checkpoint, stored_tensors
from omni_avsr.config import PUBLISHED_TASK_WEIGHTS, SelfSupervisedConfig
from omni_avsr.encoders.build import build_encoder
from omni_avsr.encoders.self_supervised import SelfSupervisedEncoder
from omni_avsr.model import OmniAVSR
from omni_avsr.types import Batch, Features, Rates, Task
from omni_avsr.weights import resolve

LENGTHS = (8_000, 7_999, 6_640, 6_480, 6_479, 3_000, 720, 719, 400, 399, 1)
"""In samples; around full strides, the receptive field and below it."""
WITH_HEADS = {
    "wav2vec2": (Wav2Vec2ForCTC, Wav2Vec2ForPreTraining),
    "hubert": (HubertForCTC,),
    "wavlm": (WavLMForCTC,),
}
NO_DROPOUT = dict.fromkeys(
    ("hidden_dropout", "activation_dropout", "attention_dropout", "feat_proj_dropout", "final_dropout"), 0.0
)
# WavLM's attention in transformers hands torch a mask of booleans beside a bias of floats.
pytestmark = pytest.mark.filterwarnings("ignore:Support for mismatched key_padding_mask")
KINDS = pytest.mark.parametrize("kind", SELF_SUPERVISED)
NORMS = pytest.mark.parametrize("norm", ["group", "layer"])
ORDERS = pytest.mark.parametrize("stable", [False, True], ids=["post_norm", "pre_norm"])


def random_clips(lengths: tuple[int, ...] = LENGTHS) -> list[Tensor]:
    """Of unequal loudness and with an offset, so that a normalisation shows."""
    generator = torch.Generator().manual_seed(1)
    return [0.1 * (row + 1) * torch.randn(length, generator=generator) + 0.05 for row, length in enumerate(lengths)]


def built(model: PreTrainedModel, normalize: bool = True) -> SelfSupervisedEncoder:
    """The encoder with the weights of transformers' model."""
    encoder = SelfSupervisedEncoder(model.config, normalize)
    state = {name: value for name, value in model.state_dict().items() if name != "masked_spec_embed"}
    encoder.model.load_state_dict(state)
    return encoder.eval()


def transformers_features(model: PreTrainedModel, waveform: Tensor, normalize: bool) -> Tensor:
    """[T, D] of one clip that is long enough for one feature."""
    extractor = Wav2Vec2FeatureExtractor(do_normalize=normalize)
    values = extractor(waveform.numpy(), sampling_rate=16_000, return_tensors="pt").input_values
    with torch.no_grad():
        return model(values).last_hidden_state[0]


def rewrite(folder: Path, change: Any) -> None:
    """Save the weights of a folder once more, as ``change`` makes them from what they were."""
    path = folder / "model.safetensors"
    state = change(load_file(path))
    path.unlink()  # what is mapped into memory stays
    save_file(state, path)


def features_of(folder: Path, kind: str) -> Tensor:
    with torch.no_grad():
        return SelfSupervisedEncoder.from_folder(folder, kind)(Features.pad(random_clips((4_000, 2_000)))).values


@KINDS
@NORMS
@ORDERS
@pytest.mark.parametrize("normalize", [False, True], ids=["raw", "normalized"])
def test_a_clip_alone_equals_transformers(kind: str, norm: str, stable: bool, normalize: bool) -> None:
    model = tiny_self_supervised(kind, feat_extract_norm=norm, do_stable_layer_norm=stable)
    encoder = built(model, normalize)
    loud, short = random_clips((6_479, 400))
    for clip in (loud, short, 1e-3 * loud):
        with torch.no_grad():
            features = encoder(Features.pad([clip]))
        expected = transformers_features(model, clip, normalize)
        torch.testing.assert_close(features.values[0], expected, atol=1e-5, rtol=0)
        assert features.lengths.tolist() == [len(expected)]


@KINDS
@NORMS
@ORDERS
def test_a_clip_is_the_same_alone_and_in_a_batch_whatever_stands_behind_it(kind: str, norm: str, stable: bool) -> None:
    encoder = built(tiny_self_supervised(kind, feat_extract_norm=norm, do_stable_layer_norm=stable))
    clips = random_clips()
    batch = Features.pad(clips)
    garbage = torch.where(batch.mask(), batch.values, torch.full_like(batch.values, 1e3))
    with torch.no_grad():
        together = encoder(Features(garbage, batch.lengths))
        assert together.values.shape[1] == int(together.lengths.max())
        for row, length, clip in zip(together.values, together.lengths, clips, strict=True):
            alone = encoder(Features.pad([clip]))
            assert alone.values.shape == (1, length, 16)
            torch.testing.assert_close(row[:length], alone.values[0], atol=1e-5, rtol=0)
            assert not row[length:].any()


@KINDS
def test_lengths_are_those_of_the_convolutions(kind: str) -> None:
    model = tiny_self_supervised(kind)
    encoder = built(model)
    with torch.no_grad():
        lengths = encoder(Features.pad(random_clips())).lengths
    long_enough = torch.tensor([max(length, 400) for length in LENGTHS])
    assert lengths.tolist() == model._get_feat_extract_output_lengths(long_enough).tolist()
    assert lengths[-3:].tolist() == [1, 1, 1]
    assert (encoder.frame_rate, encoder.output_dim, encoder.max_seconds) == (50.0, 16, math.inf)


def test_the_frame_rate_follows_the_strides() -> None:
    model = tiny_self_supervised("hubert", conv_dim=[8, 8], conv_kernel=[10, 3], conv_stride=[5, 4])
    encoder = built(model)
    assert (encoder.frame_rate, encoder.front.receptive_field) == (800.0, 20)
    assert encoder(Features.pad(random_clips((1, 20, 39, 40)))).lengths.tolist() == [1, 1, 1, 2]


@KINDS
@NORMS
def test_a_shorter_clip_than_the_receptive_field_is_followed_by_silence(kind: str, norm: str) -> None:
    """The silence is that of the normalised clip: it does not count in the clip's mean and variance."""
    model = tiny_self_supervised(kind, feat_extract_norm=norm)
    [clip] = random_clips((150,))
    normalized = (clip - clip.mean()) / clip.std(correction=0)
    expected = transformers_features(model, torch.nn.functional.pad(normalized, (0, 250)), normalize=False)
    with torch.no_grad():
        features = built(model)(Features.pad([clip])).values[0]
    torch.testing.assert_close(features, expected, atol=1e-4, rtol=0)


def test_digital_silence_is_encoded() -> None:
    with torch.no_grad():
        values = built(tiny_self_supervised("wavlm"))(Features.pad([torch.zeros(2_000)])).values
    assert values.isfinite().all()


@KINDS
def test_an_empty_clip_is_refused(kind: str) -> None:
    with pytest.raises(ValueError, match="without samples"):
        built(tiny_self_supervised(kind))(Features.pad([torch.zeros(500), torch.zeros(0)]))


@KINDS
@NORMS
@ORDERS
def test_masking_and_layer_drop_are_off_in_training_as_well(kind: str, norm: str, stable: bool) -> None:
    model = tiny_self_supervised(
        kind,
        feat_extract_norm=norm,
        do_stable_layer_norm=stable,
        apply_spec_augment=True,
        mask_time_prob=0.9,
        mask_feature_prob=0.9,
        layerdrop=1.0,
        **NO_DROPOUT,
    )
    encoder, batch = built(model), Features.pad(random_clips((8_000, 5_000)))
    with torch.no_grad():
        exact = encoder(batch).values
        torch.testing.assert_close(encoder.train()(batch).values, exact, atol=1e-6, rtol=0)
    assert model.config.layerdrop == 1.0, "the caller's config is changed"


@KINDS
def test_evaluation_is_deterministic_and_dropout_is_what_training_adds(kind: str) -> None:
    encoder, batch = built(tiny_self_supervised(kind, hidden_dropout=0.5)), Features.pad(random_clips((3_000, 2_000)))
    with torch.no_grad():
        assert torch.equal(encoder(batch).values, encoder(batch).values)
        encoder.train()
        assert not torch.equal(encoder(batch).values, encoder(batch).values)


@KINDS
@NORMS
@ORDERS
def test_gradients_reach_every_weight(kind: str, norm: str, stable: bool) -> None:
    encoder = built(tiny_self_supervised(kind, feat_extract_norm=norm, do_stable_layer_norm=stable)).train()
    encoder(Features.pad(random_clips((4_000, 2_500)))).values.square().sum().backward()
    assert not [name for name, weight in encoder.named_parameters() if weight.grad is None]


@KINDS
def test_frozen_convolutions_make_no_graph(kind: str) -> None:
    encoder = built(tiny_self_supervised(kind)).requires_grad_(False).train()
    encoder.model.encoder.layers.requires_grad_(True)
    seen: list[bool] = []
    encoder.model.feature_projection.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].requires_grad))
    assert encoder(Features.pad(random_clips((2_000,)))).values.requires_grad
    assert seen == [False]


@KINDS
def test_bfloat16_autocast_stays_near_float32_and_ignores_padding(kind: str) -> None:
    encoder, clips = built(tiny_self_supervised(kind)), random_clips((6_000, 3_000))
    with torch.no_grad():
        exact = encoder(Features.pad(clips))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            together, alone = encoder(Features.pad(clips)), encoder(Features.pad(clips[1:]))
    torch.testing.assert_close(together.values.float(), exact.values, atol=0.2, rtol=0)
    torch.testing.assert_close(together.values[1:, : alone.lengths], alone.values, atol=0.1, rtol=0)


@KINDS
@pytest.mark.parametrize("normalize", [False, True])
def test_a_folder_gives_transformers_features_normalised_as_it_says(kind: str, normalize: bool, tmp_path: Path) -> None:
    model = save_tiny_self_supervised(tmp_path, kind, normalize)
    encoder = SelfSupervisedEncoder.from_folder(tmp_path, kind)
    assert not encoder.training
    [clip] = random_clips((3_000,))
    with torch.no_grad():
        features = encoder(Features.pad([clip])).values[0]
    torch.testing.assert_close(features, transformers_features(model, clip, normalize), atol=1e-5, rtol=0)


def test_processors_that_are_saved_whole_tell_the_normalisation_as_well(tmp_path: Path) -> None:
    save_tiny_self_supervised(tmp_path, "hubert", normalize=False)
    part = json.loads((tmp_path / "preprocessor_config.json").read_text())
    (tmp_path / "preprocessor_config.json").unlink()
    (tmp_path / "processor_config.json").write_text(json.dumps({"feature_extractor": part}))
    assert not SelfSupervisedEncoder.from_folder(tmp_path, "hubert").front.normalize


@KINDS
def test_heads_and_what_pretraining_needs_are_left_out(kind: str, tmp_path: Path) -> None:
    save_tiny_self_supervised(tmp_path, kind)
    expected = features_of(tmp_path, kind)
    model = tiny_self_supervised(kind)
    for number, with_head in enumerate(WITH_HEADS[kind]):
        whole, folder = with_head(model.config), tmp_path / str(number)
        getattr(whole, kind).load_state_dict(model.state_dict())
        whole.save_pretrained(folder)
        Wav2Vec2FeatureExtractor().save_pretrained(folder)
        names = load_file(folder / "model.safetensors").keys()
        assert f"{kind}.masked_spec_embed" in names
        assert not all(name.startswith(f"{kind}.") for name in names)
        assert torch.equal(features_of(folder, kind), expected)


@KINDS
def test_both_spellings_of_weight_norm_load(kind: str, tmp_path: Path) -> None:
    save_tiny_self_supervised(tmp_path, kind)
    expected = features_of(tmp_path, kind)
    new = load_file(tmp_path / "model.safetensors").keys()
    spellings = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}

    def respelled(name: str) -> str:
        for now, before in spellings.items():
            name = name.replace(now, before)
        return name

    rewrite(tmp_path, lambda state: {respelled(name): value for name, value in state.items()})
    assert len(load_file(tmp_path / "model.safetensors").keys() - new) == 2
    assert torch.equal(features_of(tmp_path, kind), expected)


@KINDS
def test_pytorchs_own_format_loads_where_there_is_no_other(kind: str, tmp_path: Path) -> None:
    model = save_tiny_self_supervised(tmp_path, kind)
    expected = features_of(tmp_path, kind)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"neither model\.safetensors nor pytorch_model\.bin"):
        SelfSupervisedEncoder.from_folder(tmp_path, kind)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    assert torch.equal(features_of(tmp_path, kind), expected)
    torch.save({"hook": print}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match="read safely"):
        SelfSupervisedEncoder.from_folder(tmp_path, kind)


def test_shards_and_half_precision_load(tmp_path: Path) -> None:
    model = save_tiny_self_supervised(tmp_path, "wavlm").half()
    model.save_pretrained(tmp_path / "many", max_shard_size="10KB")
    Wav2Vec2FeatureExtractor().save_pretrained(tmp_path / "many")
    assert len(list((tmp_path / "many").glob("*.safetensors"))) > 1
    encoder = SelfSupervisedEncoder.from_folder(tmp_path / "many", "wavlm")
    assert {weight.dtype for weight in encoder.parameters()} == {torch.float32}
    torch.testing.assert_close(
        features_of(tmp_path / "many", "wavlm"), features_of(tmp_path, "wavlm"), atol=0.02, rtol=0
    )
    encoder = SelfSupervisedEncoder.from_folder(tmp_path, "wavlm", torch.bfloat16)
    assert encoder(Features.pad(random_clips((900, 500)))).values.dtype == torch.bfloat16


@KINDS
@pytest.mark.parametrize("wrong", ["missing", "unexpected", "shape"])
def test_weights_that_do_not_fit_the_config_are_refused(kind: str, wrong: str, tmp_path: Path) -> None:
    save_tiny_self_supervised(tmp_path, kind)
    name = "encoder.layers.1.attention.k_proj.weight"

    def spoil(state: dict[str, Tensor]) -> dict[str, Tensor]:
        value = state.pop(name)
        if wrong == "missing":
            return state
        return state | ({name: value, f"{name}_again": value.clone()} if wrong == "unexpected" else {name: value[1:]})

    rewrite(tmp_path, spoil)
    with pytest.raises(ValueError, match=rf"(?s)do not fit its config.json.*{name}"):
        SelfSupervisedEncoder.from_folder(tmp_path, kind)


def test_a_folder_of_another_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"config\.json does not exist"):
        SelfSupervisedEncoder.from_folder(tmp_path, "wavlm")
    save_tiny_self_supervised(tmp_path, "hubert")
    with pytest.raises(ValueError, match='a "hubert" model, not a "wavlm" one'):
        SelfSupervisedEncoder.from_folder(tmp_path, "wavlm")


def test_a_folder_must_tell_the_normalisation_and_a_known_sample_rate(tmp_path: Path) -> None:
    save_tiny_self_supervised(tmp_path, "wav2vec2")
    (tmp_path / "preprocessor_config.json").unlink()
    with pytest.raises(ValueError, match=r'has no preprocessor_config\.json.*\{"do_normalize": true\}'):
        SelfSupervisedEncoder.from_folder(tmp_path, "wav2vec2")
    (tmp_path / "preprocessor_config.json").write_text('{"do_normalize": false}')
    assert not SelfSupervisedEncoder.from_folder(tmp_path, "wav2vec2").front.normalize
    (tmp_path / "preprocessor_config.json").write_text('{"sampling_rate": 8000}')
    with pytest.raises(ValueError, match="hears 8000 Hz, not 16000"):
        SelfSupervisedEncoder.from_folder(tmp_path, "wav2vec2")


@pytest.mark.parametrize(
    ("kind", "settings"),
    [("wav2vec2", {"add_adapter": True}), ("wavlm", {"add_adapter": True}), ("hubert", {"conv_pos_batch_norm": True})],
)
def test_parts_that_would_break_the_contract_are_refused(kind: str, settings: dict[str, bool]) -> None:
    with pytest.raises(ValueError, match=f"not supported: it has {next(iter(settings))}"):
        SelfSupervisedEncoder(tiny_self_supervised(kind, **settings).config, True)


def test_weights_that_are_not_the_pinned_ones_are_refused(tmp_path: Path) -> None:
    save_tiny_self_supervised(tmp_path, "hubert")
    assert build_encoder(SelfSupervisedConfig(str(tmp_path), "hubert", ctc=True)).ctc is not None
    with pytest.raises(ValueError, match="sha256"):
        build_encoder(SelfSupervisedConfig(str(tmp_path), "hubert", sha256="0" * 64))


def losses(model: OmniAVSR, batch: Batch) -> dict[Task, float]:
    output = model.loss(
        model.encode(batch.inputs), batch.texts, Rates(2, 3), PUBLISHED_TASK_WEIGHTS, batch.num_label_tokens
    )
    return {task: float(loss) for task, loss in output.task_losses.items()}


@KINDS
@torch.no_grad()
def test_padding_changes_neither_loss_nor_text_of_a_whole_model(kind: str, tmp_path: Path) -> None:
    model, batch = tiny_model(tmp_path, audio=kind), tiny_batch()
    singles = [single(batch, row) for row in range(len(batch))]
    together, alone = losses(model, batch), [losses(model, one) for one in singles]
    for task in Task:
        assert together[task] == pytest.approx(sum(loss[task] for loss in alone), abs=1e-5)
        texts = model.generate(model.encode(batch.inputs), task, Rates(2, 3), max_new_tokens=6)
        expected = [model.generate(model.encode(one.inputs), task, Rates(2, 3), max_new_tokens=6) for one in singles]
        assert [[text] for text in texts] == expected


@KINDS
def test_a_checkpoint_pins_the_encoder_and_holds_what_was_trained_of_it(kind: str, tmp_path: Path) -> None:
    model, batch = tiny_model(tmp_path, audio=kind, video_encoder=None), tiny_batch()
    untrained = outputs(model, batch)
    trained = train(model, ["encoders.audio.encoder.model.encoder.layers.1.*"])
    save_checkpoint(tmp_path / "checkpoint", model, trained, {})
    stored = {name for name in stored_tensors(tmp_path / "checkpoint") if name.startswith("encoders.audio.")}
    assert stored == trained.keys()
    pin = read_info(tmp_path / "checkpoint").model.base_weights["encoders.audio.encoder."]
    assert pin == (str(tmp_path / kind), resolve(str(tmp_path / kind)).sha256())
    assert outputs(load_checkpoint(tmp_path / "checkpoint"), batch) == outputs(model, batch) != untrained
