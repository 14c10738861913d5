"""What a language model holds: its weights in any format, its cache, and a pass over positions without gradients."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from torch import nn
from transformers import PreTrainedModel

from omni_avsr.config import Quantization

FLOAT32 = 4
NF4_BLOCK = 64
"""Weights that share a scale in NF4."""
_QUERIES = "q_proj"
_CACHED = ("k_proj", "v_proj")


@dataclass(frozen=True)
class LLMSizes:
    """A language model in numbers.

    matrices: (outputs, inputs) of every linear layer of the decoder, and tables: of the embeddings and of the output
    matrix, where that is one of its own; what is quantised. vectors: its other parameters, norms and biases. buffers:
    bytes. hidden, widened: widths of a layer and of its feed-forward part; queries, cached: of a position, in all
    layers, its queries, and its keys and values.
    """

    matrices: tuple[tuple[int, int], ...]
    tables: tuple[tuple[int, int], ...]
    vectors: int
    buffers: int
    num_layers: int
    hidden: int
    widened: int
    queries: int
    cached: int

    @property
    def num_parameters(self) -> int:
        return sum(rows * columns for rows, columns in (*self.matrices, *self.tables)) + self.vectors

    @property
    def vocab_size(self) -> int:
        return self.tables[-1][0]

    def weight_bytes(self, dtype: torch.dtype, quantization: Quantization | None) -> int:
        """Bytes of all but the tables; ``dtype`` is of what is not quantised."""
        matrices = sum(matrix_bytes(*shape, dtype, quantization) for shape in self.matrices)
        return matrices + self.vectors * dtype.itemsize + self.buffers

    def table_bytes(self, dtype: torch.dtype, quantization: Quantization | None) -> int:
        """Bytes of the tables, which NF4 leaves at 8 bits."""
        return sum(matrix_bytes(*shape, dtype, quantization and "int8") for shape in self.tables)

    def read_bytes(self, dtype: torch.dtype, quantization: Quantization | None) -> int:
        """Bytes of the weights that a pass reads: all but those of input embeddings, of which it needs a few rows."""
        head = matrix_bytes(*self.tables[-1], dtype, quantization and "int8")
        return self.weight_bytes(dtype, quantization) + head

    def cache_bytes(self, positions: int, dtype: torch.dtype) -> int:
        """Bytes of the keys and values of so many positions, those of all rows together."""
        return positions * self.cached * dtype.itemsize

    def pass_bytes(self, positions: int, dtype: torch.dtype) -> int:
        """Bytes that a pass holds at most beside cache and logits: behind the widening of the feed-forward part."""
        # Gate, up and their product, and six tensors of the layer's own width.
        return positions * (3 * self.widened + 6 * self.hidden) * dtype.itemsize

    def logit_bytes(self, rows: int, num_beams: int, dtype: torch.dtype) -> int:
        """Bytes that choosing the next token holds at most, for so many rows."""
        # As they come and in float32; beams add log-probabilities, and their sums, as they are and sorted.
        return rows * self.vocab_size * (dtype.itemsize + FLOAT32 * (1 if num_beams == 1 else 4))


def matrix_bytes(rows: int, columns: int, dtype: torch.dtype, quantization: Quantization | None) -> int:
    """Bytes of a matrix. int8 has a scale for each row; NF4 packs two weights a byte, with a scale for each block."""
    match quantization:
        case None:
            return rows * columns * dtype.itemsize
        case "int8":
            return rows * columns + rows * FLOAT32
        case "nf4":
            return (rows * columns + 1) // 2 + -(-rows * columns // NF4_BLOCK) * FLOAT32


def llm_sizes_of(llm: PreTrainedModel) -> LLMSizes:
    """The sizes of a causal LM, LoRA in it left out. It may have no weights, but no quantised ones.

    ValueError for families whose layers are named otherwise than Llama's.
    """
    decoder: Any = llm.get_decoder()
    matrices = dict(_matrices(decoder))
    cached = [matrix.out_features for name, matrix in matrices.items() if name.endswith(_CACHED)]
    if not matrices or len(cached) != len(_CACHED) * len(decoder.layers):
        raise ValueError(f"the memory of {type(llm).__name__} is not known: its layers have no {' and '.join(_CACHED)}")
    # The output matrix comes last; where it is tied, the two are one.
    own = {name: value for name, value in llm.named_parameters() if ".lora_" not in name}
    held = {id(matrix.weight) for matrix in matrices.values()}
    tables = [value for value in own.values() if value.ndim > 1 and id(value) not in held]
    return LLMSizes(
        matrices=tuple((matrix.out_features, matrix.in_features) for matrix in matrices.values()),
        tables=tuple((len(table), table.shape[1]) for table in tables),
        vectors=sum(value.numel() for value in own.values() if value.ndim == 1),
        buffers=sum(value.nbytes for value in llm.buffers()),
        num_layers=len(decoder.layers),
        hidden=tables[0].shape[1],
        widened=max(matrix.out_features for matrix in matrices.values()),
        queries=sum(matrix.out_features for name, matrix in matrices.items() if name.endswith(_QUERIES)),
        cached=sum(cached),
    )


def _matrices(module: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Linear]]:
    """The linear layers inside ``module``, by name; of those with LoRA, what it is on."""
    for name, child in module.named_children():
        base = child.get_base_layer() if isinstance(child, LoraLayer) else child
        if isinstance(base, nn.Linear):
            yield f"{prefix}{name}", base
        else:
            yield from _matrices(child, f"{prefix}{name}.")
