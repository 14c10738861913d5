"""Frozen weights of 8 or 4 bits, on any device: int8 rows as torchao makes them, NF4 blocks as bitsandbytes does.

Both libraries have layers of their own. But on a CPU torchao's copies its whole matrix into floats in every pass, and a
graph keeps that copy; and bitsandbytes' changes its form in evaluation mode, where a frozen LLM always is, so that no
gradient passes any more. The layers here hold the libraries' numbers, make floats of a slab of rows at a time, and
leave nothing in the graph.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from transformers import PreTrainedModel

from omni_avsr.config import Quantization
from omni_avsr.streaming import slabs

PACKAGES: dict[Quantization, tuple[str, ...]] = {"int8": ("torchao",), "nf4": ("bitsandbytes", "torchao")}
"""What quantises so: tables are int8 in either case."""
_FEW_ROWS = 8
"""Rows of input up to which torch's own product with int8 weights is the faster one."""
_WIDTH = 64
"""What that product needs a row's length to be a multiple of (a smaller one would do): it reads beyond other rows."""
_BLOCK = 64
"""Numbers of NF4 that share a scale."""


def check_installed(quantization: Quantization) -> None:
    """Raise ValueError, with what to do, when a library is missing."""
    if missing := [name for name in PACKAGES[quantization] if importlib.util.find_spec(name) is None]:
        raise ValueError(
            f"quantization {quantization} needs {' and '.join(missing)}; run 'pip install {' '.join(missing)}', or "
            "install this package with its extra 'runtime'"
        )


class Quantised(nn.Module):
    """A frozen matrix [rows, columns], written once and read as floats."""

    weight: Tensor

    def write(self, first: int, values: Tensor) -> None:
        """Quantise ``values``, float32 [n, columns], the rows from ``first`` on; ``first`` is that of a slab."""
        raise NotImplementedError

    def read(self, first: int, last: int, dtype: torch.dtype) -> Tensor:
        """The rows from ``first`` to before ``last``, [last - first, columns]."""
        raise NotImplementedError


class Int8(Quantised):
    """As int8, with a scale for each row."""

    scale: Tensor

    def allocate(self, num_rows: int, num_columns: int, device: torch.device | str) -> None:
        values = torch.empty(num_rows, num_columns, dtype=torch.int8, device=device)
        self.weight = nn.Parameter(values, requires_grad=False)
        self.register_buffer("scale", torch.empty(num_rows, dtype=torch.float32, device=device))

    def write(self, first: int, values: Tensor) -> None:
        from torchao.quantization import Int8Tensor, PerRow  # here: it comes with an extra

        quantised, last = Int8Tensor.from_hp(values, PerRow()), first + len(values)
        self.weight[first:last] = quantised.qdata
        self.scale[first:last] = quantised.scale.view(-1)

    def read(self, first: int, last: int, dtype: torch.dtype) -> Tensor:
        return self.weight[first:last].to(dtype) * self.scale[first:last, None].to(dtype)


class QuantisedLinear(Quantised, nn.Linear):
    """``nn.Linear`` with quantised weights, in the place of ``linear``; for input of any dtype, autocast too."""

    def __init__(self, linear: nn.Linear) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.bias = linear.bias

    def forward(self, input: Tensor) -> Tensor:
        device = input.device.type
        if torch.is_autocast_enabled(device):
            input = input.to(torch.get_autocast_dtype(device))
        output: Tensor = _Product.apply(input, self)
        return output if self.bias is None else output + self.bias.to(output.dtype)

    def product(self, input: Tensor) -> Tensor:
        """[..., in] -> [..., out], without bias; takes no part in a graph."""
        output = input.new_empty(*input.shape[:-1], self.out_features)
        for first, last in self.slabs(input):
            output[..., first:last] = F.linear(input, self.read(first, last, input.dtype))
        return output

    def slabs(self, input: Tensor) -> Iterable[tuple[int, int]]:
        """What is made floats at once: caches of CPUs are small, and other devices are fast at large products."""
        return slabs(self.out_features, self.in_features) if input.device.type == "cpu" else [(0, self.out_features)]


class Int8Linear(Int8, QuantisedLinear):
    """A linear layer of int8 weights."""

    def __init__(self, linear: nn.Linear, device: torch.device | str) -> None:
        super().__init__(linear)
        self.allocate(linear.out_features, linear.in_features, device)

    def product(self, input: Tensor) -> Tensor:
        rows = input.reshape(-1, self.in_features)
        fits = input.device.type == "cpu" and input.dtype is torch.bfloat16 and self.in_features % _WIDTH == 0
        if fits and len(rows) <= _FEW_ROWS:
            few = torch._weight_int8pack_mm(rows, self.weight, self.scale.to(input.dtype))
            return few.view(*input.shape[:-1], self.out_features)
        return super().product(input)


class NF4Linear(QuantisedLinear):
    """A linear layer of NF4 weights: two to a byte, with a scale for each 64.

    Raises:
        ValueError: rows of an odd length.
    """

    absmax: Tensor

    def __init__(self, linear: nn.Linear, device: torch.device | str) -> None:
        super().__init__(linear)
        num_rows, num_columns = linear.out_features, linear.in_features
        if num_columns % 2:
            raise ValueError(f"NF4 packs two weights in a byte, a layer of {num_columns} inputs has an odd number")
        codes = torch.empty(num_rows, num_columns // 2, dtype=torch.uint8, device=device)
        self.weight = nn.Parameter(codes, requires_grad=False)
        num_blocks = -(-num_rows * num_columns // _BLOCK)
        self.register_buffer("absmax", torch.empty(num_blocks, dtype=torch.float32, device=device))

    def write(self, first: int, values: Tensor) -> None:
        from bitsandbytes.functional import quantize_4bit  # here: it comes with an extra

        codes, state = quantize_4bit(values.contiguous(), blocksize=_BLOCK, quant_type="nf4")
        self.weight[first : first + len(values)] = codes.view(len(values), -1)
        block = first * self.in_features // _BLOCK
        self.absmax[block : block + len(state.absmax)] = state.absmax

    def read(self, first: int, last: int, dtype: torch.dtype) -> Tensor:
        from bitsandbytes.functional import dequantize_4bit

        return dequantize_4bit(self.weight[first:last].view(-1, 1), self._state(first, last, dtype))

    def product(self, input: Tensor) -> Tensor:
        return super().product(input) if input.device.type == "cpu" else self.kernel(input)

    def kernel(self, input: Tensor) -> Tensor:
        """``product`` by the library's own kernels, which GPUs have."""
        from bitsandbytes import matmul_4bit

        state = self._state(0, self.out_features, input.dtype)
        return cast(Tensor, matmul_4bit(input, self.weight.view(-1, 1), state))

    def _state(self, first: int, last: int, dtype: torch.dtype) -> Any:
        from bitsandbytes.functional import QuantState

        start, end = first * self.in_features // _BLOCK, -(-last * self.in_features // _BLOCK)
        shape = torch.Size((last - first, self.in_features))
        return QuantState(self.absmax[start:end], shape=shape, dtype=dtype, blocksize=_BLOCK, quant_type="nf4")


class Int8Embedding(Int8, nn.Embedding):
    """``nn.Embedding`` of int8 rows, in the place of ``table``: ids [...] -> [..., columns]."""

    _like: Tensor

    def __init__(self, table: nn.Embedding, device: torch.device | str) -> None:
        nn.Module.__init__(self)
        self.num_embeddings, self.embedding_dim = table.num_embeddings, table.embedding_dim
        self.allocate(table.num_embeddings, table.embedding_dim, device)
        # Holds nothing but a dtype, which follows when a whole model is cast.
        self.register_buffer("_like", torch.empty(0, dtype=table.weight.dtype, device=device), persistent=False)

    def forward(self, input: Tensor) -> Tensor:
        dtype = self._like.dtype
        return self.weight[input].to(dtype) * self.scale[input][..., None].to(dtype)

    def extra_repr(self) -> str:
        return f"{self.num_embeddings}, {self.embedding_dim}"


class _Product(torch.autograd.Function):
    """A quantised layer's product; backward reads the weights once more."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, layer: QuantisedLinear) -> Tensor:
        ctx.layer = layer
        return layer.product(input)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        layer: QuantisedLinear = ctx.layer
        of_input = grad.new_zeros(*grad.shape[:-1], layer.in_features)
        for first, last in layer.slabs(grad):
            of_input += grad[..., first:last] @ layer.read(first, last, grad.dtype)
        return of_input, None


def quantise_layers(model: PreTrainedModel, quantization: Quantization, device: torch.device | str) -> None:
    """Put quantised layers, not written yet, in the place of ``model``'s, whose weights need no values; in place.

    The embeddings and the output matrix become int8 in either case, since 4 bits cost more accuracy there. They share
    their numbers where the model ties them. Embeddings that compute anything (Gemma's) stay as they are, and an output
    matrix that is tied to them too.
    """
    layer = {"int8": Int8Linear, "nf4": NF4Linear}[quantization]
    table, head = model.get_input_embeddings(), model.get_output_embeddings()
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.Linear and child is not head:
                setattr(parent, name, layer(child, device))
    plain_table, plain_head = type(table) is nn.Embedding, type(head) is nn.Linear
    if model.config.tie_word_embeddings:
        plain_table = plain_head = plain_table and plain_head
    if plain_table:
        assert isinstance(table, nn.Embedding)
        model.set_input_embeddings(Int8Embedding(table, device))
    if plain_head:
        assert isinstance(head, nn.Linear)
        model.set_output_embeddings(Int8Linear(head, device))
    tie_int8(model)


def tie_int8(model: PreTrainedModel) -> None:
    """Share int8 embeddings with the output matrix where ``model`` ties them."""
    table, head = model.get_input_embeddings(), model.get_output_embeddings()
    if model.config.tie_word_embeddings and isinstance(table, Int8Embedding) and isinstance(head, Int8Linear):
        head.weight, head.scale = table.weight, table.scale
