"""A loss of several parts: the same gradients as of their plain sum, with the graph of one part at a time."""

import weakref

import pytest
import torch
from torch import Tensor

from omni_avsr.gradients import PartwiseLoss

CPU = torch.device("cpu")


def example() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Features with a graph of their own behind them, two parameters, and one that no part uses."""
    source = torch.tensor([1.0, 2.0, 3.0], requires_grad=True)
    first, second, unused = (torch.tensor(value, requires_grad=True) for value in (0.5, -2.0, 7.0))
    return source, first, second, unused


def parts_of(features: Tensor, first: Tensor, second: Tensor) -> list[Tensor]:
    return [(features * first).square().sum(), (features * second * first).exp().sum(), second.square()]


@pytest.mark.parametrize("scale", [1.0, 8.0])
def test_gradients_are_those_of_the_plain_sum(scale: float) -> None:
    expected = example()
    total = torch.stack(parts_of(expected[0].sin(), *expected[1:3])).sum()
    (scale * total).backward()
    found = example()
    features = found[0].sin()
    loss = PartwiseLoss([features, *found[1:]], CPU)
    for part in parts_of(features, *found[1:3]):
        loss.add(part)
    torch.testing.assert_close(loss.total(), total)
    (scale * loss.total()).backward()
    for one, other in zip(found[:3], expected[:3], strict=True):
        torch.testing.assert_close(one.grad, other.grad)
    assert found[3].grad is None, "what no part uses gets no gradient, not zeros"


def test_a_part_is_gone_from_memory_once_it_is_added() -> None:
    kept: list[weakref.ref[Tensor]] = []
    parameter = torch.ones(5, requires_grad=True)
    loss = PartwiseLoss([parameter], CPU)

    def part() -> Tensor:
        inner = parameter.exp()  # keeps its result for the backward pass
        kept.append(weakref.ref(inner))
        return inner.sum()

    for _ in range(2):
        loss.add(part())
        assert kept[-1]() is None
    loss.total().backward()
    torch.testing.assert_close(parameter.grad, 2 * torch.ones(5).exp())


def test_without_gradients_it_is_a_sum() -> None:
    parameter = torch.ones(2, requires_grad=True)
    with torch.no_grad():
        loss = PartwiseLoss([parameter], CPU)
        loss.add(parameter.sum())
        loss.add(parameter.sum())
    assert float(loss.total()) == 4
    assert not loss.total().requires_grad


def test_under_float16_gradients_wait_for_the_scaled_loss() -> None:
    parameter = torch.ones(2, requires_grad=True)
    with torch.autocast("cpu", torch.float16):
        loss = PartwiseLoss([parameter], CPU)
        loss.add(parameter.exp().sum())
    assert loss.gradients == [None]
    (2 * loss.total()).backward()
    torch.testing.assert_close(parameter.grad, 2 * torch.ones(2).exp())
