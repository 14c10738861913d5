"""Weights row by row: the same numbers as read whole, from one file or several, with adapters added on the way."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from omni_avsr import streaming
from omni_avsr.streaming import MergedRows, read_all, read_slabs, slabs, stored_rows

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def tensors() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = {"vector": (7,), "matrix": (200, 6), "cube": (130, 3, 5), "row": (1, 9)}
    return {
        f"{name}.{dtype}": torch.randn(shape, generator=generator).to(dtype)
        for name, shape in shapes.items()
        for dtype in DTYPES
    }


@pytest.fixture
def small_slabs(monkeypatch: pytest.MonkeyPatch) -> None:
    """So small that a matrix has several, and that they do not come out even."""
    monkeypatch.setattr(streaming, "SLAB_ELEMENTS", 64)


@pytest.mark.parametrize("dtype", DTYPES)
def test_whole_tensors_are_those_of_the_file(dtype: torch.dtype, small_slabs: None, tmp_path: Path) -> None:
    save_file(tensors() | {"steps": torch.arange(3)}, tmp_path / "model.safetensors", metadata={"format": "pt"})
    rows = stored_rows(tmp_path)
    assert rows.keys() == tensors().keys()  # integers are no weights
    found = read_all(rows, dtype)
    for name, expected in tensors().items():
        assert rows[name].shape == tuple(expected.shape)
        assert found[name].dtype is dtype
        assert torch.equal(found[name], expected.to(dtype)), name


def test_shards_are_one_folder(tmp_path: Path) -> None:
    names = sorted(tensors())
    files = {name: f"model-{number % 2}.safetensors" for number, name in enumerate(names)}
    for file in set(files.values()):
        save_file({name: tensors()[name] for name in names if files[name] == file}, tmp_path / file)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))
    assert stored_rows(tmp_path).keys() == tensors().keys()


def test_a_part_of_the_rows_is_read(tmp_path: Path) -> None:
    save_file(tensors(), tmp_path / "model.safetensors")
    name = f"cube.{torch.bfloat16}"
    assert torch.equal(stored_rows(tmp_path)[name].read(5, 9), tensors()[name][5:9])


def test_slabs_cover_a_matrix_once_and_begin_at_multiples_of_64() -> None:
    for num_rows, width in ((1, 5), (64, 2**21), (1000, 2**12), (129, 576)):
        bounds = list(slabs(num_rows, width))
        assert [first for first, _ in bounds] == [0, *(last for _, last in bounds[:-1])]
        assert bounds[-1][1] == num_rows
        assert not any(first % 64 for first, _ in bounds)


def test_low_rank_changes_are_added_in_float32(small_slabs: None, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(150, 8, generator=generator).bfloat16()
    down, up = torch.randn(2, 8, generator=generator), torch.randn(150, 2, generator=generator)
    save_file({"weight": weight}, tmp_path / "model.safetensors")
    merged = MergedRows(stored_rows(tmp_path)["weight"], ((0.5, down, up), (2.0, down, up)))
    assert len(list(read_slabs(merged))) == 3
    found = read_all({"weight": merged}, torch.float32)["weight"]
    torch.testing.assert_close(found, weight.float() + 2.5 * up @ down)


def test_a_file_that_was_cut_off_is_named(tmp_path: Path) -> None:
    save_file(tensors(), tmp_path / "model.safetensors")
    data = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(data[:-100])
    with pytest.raises(ValueError, match=r"model\.safetensors ends before its tensors do"):
        read_all(stored_rows(tmp_path), torch.float32)
