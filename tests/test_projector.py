"""Projectors: which weights a rate uses, their count, their starting spread, and zeros behind each length."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from omni_avsr.config import (
    AnyProjectorConfig,
    BridgeFormerConfig,
    CompressionConfig,
    ModelConfig,
    ProjectorConfig,
    from_mapping,
    to_mapping,
)
from omni_avsr.projector import MLPProjector, ModalityProjector, pool
from omni_avsr.types import Features, Modality

DIM, HIDDEN, LLM_DIM, STD = 6, 10, 12, 0.03
CONFIG = ProjectorConfig(hidden_dim=HIDDEN)
BRIDGE = BridgeFormerConfig(hidden_dim=8, num_layers=2, num_heads=2, ffn_dim=16, num_tokens=4)
AVERAGE = CompressionConfig(audio_rates=(4, 16), video_rates=(2, 5))


def projector(config: AnyProjectorConfig = CONFIG, compression: CompressionConfig = AVERAGE) -> ModalityProjector:
    torch.manual_seed(0)
    return ModalityProjector(Modality.AUDIO, DIM, LLM_DIM, STD, config, compression)


def features(*lengths: int, dim: int = DIM) -> Features:
    generator = torch.Generator().manual_seed(1)
    return Features.pad([torch.randn(length, dim, generator=generator) for length in lengths])


def num_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_published_size_without_layer_norm() -> None:
    assert num_parameters(MLPProjector(1024, 2048, 2048, None)) == 6_295_552


def test_layer_norm_adds_its_gain_and_bias_alone() -> None:
    assert num_parameters(MLPProjector(1024, 2048, 2048, STD)) == 6_295_552 + 2 * 2048


@pytest.mark.parametrize("layer_norm", [True, False])
def test_layer_norm_is_what_the_config_says(layer_norm: bool) -> None:
    made = projector(replace(CONFIG, layer_norm=layer_norm))
    assert any(isinstance(module, nn.LayerNorm) for module in made.modules()) is layer_norm


def test_per_rate_gives_each_rate_its_own_weights() -> None:
    made = projector()
    inputs = features(3)
    low, high = made(inputs, 4), made(inputs, 16)
    assert low.values.shape == high.values.shape == (1, 3, LLM_DIM)
    assert not torch.allclose(low.values, high.values)
    low.values.square().sum().backward()
    trained = {name for name, parameter in made.named_parameters() if parameter.grad is not None}
    assert trained == {name for name, _ in made.named_parameters() if name.startswith("by_rate.4.")}


def test_shared_gives_all_rates_the_same_weights() -> None:
    made = projector(replace(CONFIG, sharing="shared"))
    assert num_parameters(made) * 2 == num_parameters(projector())
    assert torch.equal(made(features(3), 4).values, made(features(3), 16).values)


def test_the_rates_are_those_of_the_modality() -> None:
    made = ModalityProjector(Modality.VIDEO, DIM, LLM_DIM, STD, CONFIG, AVERAGE)
    assert set(made.by_rate) == {"2", "5"}


def test_stacking_widens_the_input_by_the_rate() -> None:
    made = projector(compression=replace(AVERAGE, mode="stack"))
    assert made(features(3, dim=4 * DIM), 4).values.shape == (1, 3, LLM_DIM)
    assert made(features(3, dim=16 * DIM), 16).values.shape == (1, 3, LLM_DIM)


def test_stacking_cannot_share_one_projector_over_several_rates() -> None:
    shared = replace(CONFIG, sharing="shared")
    with pytest.raises(ValueError, match=r"audio rates \[4, 16\]"):
        projector(shared, replace(AVERAGE, mode="stack"))
    single = projector(shared, replace(AVERAGE, mode="stack", audio_rates=(4,)))
    assert single(features(3, dim=4 * DIM), 4).values.shape == (1, 3, LLM_DIM)


@pytest.mark.parametrize(
    ("config", "lengths"), [(CONFIG, [5, 2, 3]), (BRIDGE, [4, 4, 4]), (replace(BRIDGE, num_tokens=None), [5, 2, 3])]
)
@pytest.mark.parametrize("training", [True, False])
def test_zeros_stand_behind_each_length_and_batch_equals_singles(
    config: AnyProjectorConfig, lengths: list[int], training: bool
) -> None:
    made = projector(config).train(training)
    inputs = features(5, 2, 3)
    tokens = made(inputs, 4)
    assert tokens.lengths.tolist() == lengths == made.of_rate(4).num_tokens(inputs.lengths).tolist()
    assert not tokens.values[~tokens.mask()].any()
    for row, length in enumerate(inputs.lengths.tolist()):
        alone = made(Features(inputs.values[row : row + 1, :length], inputs.lengths[row : row + 1]), 4)
        torch.testing.assert_close(tokens.values[row, : lengths[row]], alone.values[0])


@pytest.mark.parametrize("scale", [0.01, 30.0])
@pytest.mark.parametrize("config", [ProjectorConfig(hidden_dim=64), BridgeFormerConfig(hidden_dim=64, num_heads=2)])
def test_tokens_start_with_the_spread_of_the_llms_embeddings(config: AnyProjectorConfig, scale: float) -> None:
    torch.manual_seed(0)
    made = ModalityProjector(Modality.AUDIO, 32, 256, STD, config, AVERAGE)
    tokens = made(Features(scale * torch.randn(4, 8, 32), torch.full((4,), 8)), 4).values
    assert tokens.std().item() == pytest.approx(STD, rel=0.02)
    assert tokens.mean().item() == pytest.approx(0, abs=STD / 20)


def test_pooling_is_torchs_adaptive_one_on_each_row_alone() -> None:
    rows = features(7, 2, 3, 4)
    pooled = pool(rows, 3)
    for row, length in enumerate(rows.lengths.tolist()):
        expected = nn.functional.adaptive_avg_pool1d(rows.values[row, :length].T[None], 3)[0].T
        torch.testing.assert_close(pooled[row], expected)


def test_bridgeformer_has_no_positions_before_it_pools() -> None:
    made = projector(replace(BRIDGE, num_tokens=None)).eval()
    inputs, order = features(6), torch.tensor([3, 1, 5, 0, 4, 2])
    moved = Features(inputs.values[:, order], inputs.lengths)
    torch.testing.assert_close(made(moved, 4).values, made(inputs, 4).values[:, order])


def test_settings_say_which_projector_and_old_ones_mean_an_mlp() -> None:
    model = {"llm": {"weights": "tiny"}, "audio_encoder": {"kind": "compact_audio"}}
    old = from_mapping(ModelConfig, model | {"projector": {"hidden_dim": 5}})
    assert old.projector == ProjectorConfig(5)
    assert to_mapping(old)["projector"]["kind"] == "mlp"
    new = from_mapping(ModelConfig, model | {"projector": {"kind": "bridgeformer", "num_tokens": 5}})
    assert new.projector == BridgeFormerConfig(num_tokens=5)
    assert from_mapping(ModelConfig, to_mapping(new)) == new
    with pytest.raises(ValueError, match="num_tokens"):
        from_mapping(ModelConfig, model | {"projector": {"num_tokens": 5}})
    with pytest.raises(ValueError, match="hidden_dim 10 must be a multiple of num_heads 4"):
        from_mapping(ModelConfig, model | {"projector": {"kind": "bridgeformer", "hidden_dim": 10, "num_heads": 4}})
