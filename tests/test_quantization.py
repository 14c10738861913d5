"""Layers of 8 and 4 bits: the libraries' own numbers, the gradients of the same weights as floats, nothing kept."""

import copy
import importlib.util
from typing import Any

import bitsandbytes
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchao.quantization import Int8WeightOnlyConfig, quantize_

from omni_avsr import streaming
from omni_avsr.quantization import Int8Embedding, Int8Linear, NF4Linear, QuantisedLinear, check_installed

KINDS: dict[str, type[Int8Linear] | type[NF4Linear]] = {"int8": Int8Linear, "nf4": NF4Linear}
SIZES = ((128, 96), (6, 300), (192, 129))
"""Inputs and outputs: even blocks of NF4, rows shorter than a block, a last slab of one row."""


@pytest.fixture(autouse=True)
def _small_slabs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "SLAB_ELEMENTS", 64)


def linear(num_inputs: int, num_outputs: int, bias: bool = False) -> nn.Linear:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Linear(num_inputs, num_outputs, bias).requires_grad_(False)


@torch.no_grad()
def quantised(kind: str, layer: nn.Linear) -> QuantisedLinear:
    made = KINDS[kind](layer, "cpu")
    for first, last in streaming.slabs(layer.out_features, layer.in_features):
        made.write(first, layer.weight[first:last].float())
    return made


def as_floats(layer: QuantisedLinear) -> nn.Linear:
    """The same weights in an ordinary layer."""
    plain = nn.Linear(layer.in_features, layer.out_features, layer.bias is not None).requires_grad_(False)
    plain.weight.copy_(layer.read(0, layer.out_features, torch.float32))
    if layer.bias is not None:
        plain.bias.copy_(layer.bias)
    return plain


def inputs(num_rows: int, width: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(2, num_rows, width, generator=torch.Generator().manual_seed(1)).to(dtype)


def distance(found: Tensor, expected: Tensor) -> float:
    found, expected = found.detach().float(), expected.detach().float()
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize("size", SIZES)
def test_int8_weights_are_those_of_torchao(size: tuple[int, int]) -> None:
    layer = linear(*size)
    theirs = copy.deepcopy(layer)
    quantize_(theirs, Int8WeightOnlyConfig())
    assert torch.equal(quantised("int8", layer).read(0, size[1], torch.float32), theirs.weight.dequantize())


@pytest.mark.parametrize("size", SIZES)
def test_nf4_weights_are_those_of_bitsandbytes(size: tuple[int, int]) -> None:
    layer = linear(*size)
    codes, state = bitsandbytes.functional.quantize_4bit(layer.weight, quant_type="nf4", blocksize=64)
    expected = bitsandbytes.functional.dequantize_4bit(codes, state)
    found = quantised("nf4", layer)
    assert torch.equal(found.read(0, size[1], torch.float32), expected)
    assert torch.equal(found.read(64, 70, torch.float32), expected[64:70])


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("kind", "most"), [("int8", 0.01), ("nf4", 0.11)])
def test_weights_are_nearly_the_ones_that_were_quantised(kind: str, most: float, size: tuple[int, int]) -> None:
    layer = linear(*size)
    assert 0 < distance(quantised(kind, layer).read(0, size[1], torch.float32), layer.weight) < most


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("num_rows", [1, 3, 20], ids=["one row", "few rows", "many rows"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", KINDS)
def test_outputs_and_gradients_are_those_of_the_same_weights_as_floats(
    kind: str, size: tuple[int, int], dtype: torch.dtype, num_rows: int, bias: bool
) -> None:
    layer = quantised(kind, linear(*size, bias))
    ours, exact = inputs(num_rows, size[0], dtype), inputs(num_rows, size[0], dtype).float()
    results = []
    for module, values in ((layer, ours), (as_floats(layer), exact)):
        output = module(values.requires_grad_())
        assert output.dtype is values.dtype
        output.float().square().sum().backward()
        results.append((output, values.grad))
    (found, found_grad), (expected, expected_grad) = results
    most = 1e-6 if dtype is torch.float32 else 0.02
    assert distance(found, expected) < most
    assert distance(found_grad, expected_grad) < most


@pytest.mark.parametrize("kind", KINDS)
def test_a_graph_keeps_nothing_of_a_layer(kind: str) -> None:
    """torchao's own layer keeps the whole matrix as floats."""
    saved: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        saved.append(tensor)
        return tensor

    layer = quantised(kind, linear(64, 96))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        layer(inputs(3, 64).requires_grad_())
    assert saved == []


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_pass_in_evaluation_mode_after_a_pass_without_gradients(kind: str) -> None:
    """Where bitsandbytes' own layer has by then changed to a form without them, on processors that have bfloat16."""
    layer = quantised(kind, linear(128, 96)).eval()
    values = inputs(1, 128, torch.bfloat16)
    with torch.no_grad():
        before = layer(values)
    output = layer(values.requires_grad_())
    assert torch.equal(output, before)
    output.sum().backward()
    assert values.grad is not None
    assert values.grad.abs().max() > 0


@pytest.mark.parametrize("kind", KINDS)
def test_autocast_computes_in_its_dtype(kind: str) -> None:
    layer, values = quantised(kind, linear(64, 96)), inputs(20, 64)
    with torch.autocast("cpu", torch.bfloat16):
        output = layer(values.requires_grad_())
    assert output.dtype is torch.bfloat16
    output.float().sum().backward()
    assert values.grad is not None
    assert values.grad.dtype is torch.float32
    assert distance(output, layer(values.detach())) < 0.02


def test_the_kernel_of_other_devices_gives_the_same() -> None:
    layer = quantised("nf4", linear(128, 96))
    assert isinstance(layer, NF4Linear)
    values = inputs(5, 128)
    torch.testing.assert_close(layer.kernel(values), layer.product(values))


@pytest.mark.parametrize("kind", KINDS)
def test_a_copy_and_a_state_dict_hold_everything(kind: str) -> None:
    layer, other = quantised(kind, linear(64, 96, bias=True)), KINDS[kind](linear(64, 96, bias=True), "cpu")
    other.load_state_dict(layer.state_dict())
    values = inputs(2, 64)
    assert torch.equal(other(values), layer(values))
    assert torch.equal(copy.deepcopy(layer)(values), layer(values))


@pytest.mark.parametrize(("kind", "bits"), [("int8", 8 + 32 / 64), ("nf4", 4 + 32 / 64)])
def test_a_weight_takes_its_bits_and_its_share_of_a_scale(kind: str, bits: float) -> None:
    layer = quantised(kind, linear(64, 96))
    size = sum(value.nbytes for value in (*layer.parameters(), *layer.buffers()))
    assert 8 * size == 64 * 96 * bits


@torch.no_grad()
def test_int8_embeddings_are_rows_of_the_matrix() -> None:
    table = nn.Embedding.from_pretrained(torch.randn(130, 12, generator=torch.Generator().manual_seed(0)).bfloat16())
    small = Int8Embedding(table, "cpu")
    for first, last in streaming.slabs(130, 12):
        small.write(first, table.weight[first:last].float())
    ids = torch.tensor([[3, 129], [64, 3]])
    assert small(ids).dtype is torch.bfloat16
    assert torch.equal(small(ids), F.embedding(ids, small.read(0, 130, torch.bfloat16)))
    assert distance(small(ids), table(ids)) < 0.02
    assert small.float()(ids).dtype is torch.float32


def test_an_odd_number_of_inputs_cannot_be_packed() -> None:
    with pytest.raises(ValueError, match="a layer of 7 inputs"):
        NF4Linear(linear(7, 4), "cpu")


@pytest.mark.parametrize(("kind", "package"), [("int8", "torchao"), ("nf4", "bitsandbytes"), ("nf4", "torchao")])
def test_a_missing_library_is_named_with_what_to_do(kind: Any, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *_: None if name == package else find(name))
    with pytest.raises(ValueError, match=rf"quantization {kind} needs {package}; run 'pip install {package}'"):
        check_installed(kind)
