"""Linear layers through oneDNN: torch's own numbers, forward and backward, and nothing else changes."""

import copy

import pytest
import torch
from torch import Tensor, nn

from omni_avsr import linear
from omni_avsr.linear import MIN_ROWS, OneDNNLinear, use_onednn


@pytest.fixture
def layers(monkeypatch: pytest.MonkeyPatch) -> tuple[nn.Linear, nn.Linear]:
    """torch's layer, and the same through oneDNN whatever this machine's own choice."""
    if not torch.backends.mkldnn.is_available():
        pytest.skip("this torch has no oneDNN")
    monkeypatch.setattr(linear, "HAS_ONEDNN", True)
    torch.manual_seed(0)
    plain = nn.Linear(24, 40)
    fast = copy.deepcopy(plain)
    use_onednn(fast)
    assert type(fast) is OneDNNLinear
    return plain, fast


@pytest.mark.parametrize("trained", [False, True], ids=["frozen", "trained"])
@pytest.mark.parametrize("rows", [1, MIN_ROWS, 5 * MIN_ROWS])
def test_outputs_and_gradients_are_those_of_torch(
    rows: int, trained: bool, layers: tuple[nn.Linear, nn.Linear]
) -> None:
    inputs = torch.randn(3, 24, rows).transpose(1, 2)  # not contiguous
    weights = torch.randn(3, 40, rows).transpose(1, 2)
    found = []
    for layer in layers:
        layer.requires_grad_(trained)
        own = inputs.clone().requires_grad_()
        output = layer(own)
        (output * weights).sum().backward()
        found.append([output, own.grad, layer.weight.grad, layer.bias.grad])
    for expected, actual in zip(*found, strict=True):
        assert (expected is None) == (actual is None)
        if expected is not None:
            torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)


def test_a_frozen_layer_saves_nothing_for_its_backward_pass(layers: tuple[nn.Linear, nn.Linear]) -> None:
    kept: list[Tensor] = []
    layer = layers[1].requires_grad_(False)
    inputs = torch.randn(MIN_ROWS, 24, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        layer(inputs)
    assert not kept


def test_other_dtypes_and_autocast_take_torchs_way(layers: tuple[nn.Linear, nn.Linear]) -> None:
    plain, fast = layers
    inputs = torch.randn(MIN_ROWS, 24)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(fast(inputs), plain(inputs))
        assert fast(inputs).dtype is torch.bfloat16
    assert torch.equal(fast.bfloat16()(inputs.bfloat16()), plain.bfloat16()(inputs.bfloat16()))


def test_names_and_other_layers_stay(layers: tuple[nn.Linear, nn.Linear]) -> None:
    class Other(nn.Linear):
        pass

    model = nn.ModuleDict({"plain": nn.Linear(2, 3), "other": Other(2, 3)})
    names = list(model.state_dict())
    use_onednn(model)
    assert list(model.state_dict()) == names
    assert [type(module) for module in model.values()] == [OneDNNLinear, Other]
