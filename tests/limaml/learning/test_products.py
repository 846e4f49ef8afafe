"""Products in pieces: the same numbers as PyTorch's, forwards, backwards and twice backwards, in few shapes."""

from collections.abc import Callable

import pytest
import torch
from torch.nn import functional as F

from limaml.learning import precision, products

WEIGHT = (128, 64)


@pytest.fixture(autouse=True)
def _faster(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a processor where it pays, whichever this one is."""
    monkeypatch.setattr(products, "best_precision", lambda: "medium")


@pytest.mark.parametrize("rows", [0, 1, 127, 128, 1000, 1024, 5000])
def test_pieces_are_few_sizes_and_one_rest(rows: int) -> None:
    sizes = products.piece_sizes(torch.empty(rows, 1))
    assert sum(sizes) == rows
    assert [size for size in sizes[:-1] if size not in products.PIECES] == []
    assert all(size < products.PIECES[-1] for size in sizes if size not in products.PIECES)


def test_another_device_takes_all_rows_at_its_own_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "best_precision", lambda: "medium")
    rows, before = torch.empty(1024, 1, device="meta"), torch.get_float32_matmul_precision()
    assert products.piece_sizes(torch.empty(5000, 1, device="meta")) == [5000]
    with products.piece_products(rows):
        assert torch.get_float32_matmul_precision() == before
    with products.piece_products(torch.empty(1024, 1)):
        assert torch.get_float32_matmul_precision() == "medium"


def arguments(rows: int) -> list[torch.Tensor]:
    torch.manual_seed(0)
    shapes = ((rows, WEIGHT[1]), WEIGHT, (WEIGHT[0],))
    return [torch.randn(shape, requires_grad=True) for shape in shapes]


@pytest.mark.parametrize("rows", [100, 128, 1500, 2049])
def test_forward_and_backward_are_those_of_a_linear_layer(rows: int) -> None:
    tensors = arguments(rows)
    out, expected = products.linear(*tensors), F.linear(*tensors)
    torch.testing.assert_close(out, expected)
    signal = torch.randn_like(out)
    ours, theirs = (torch.autograd.grad(each, tensors, signal) for each in (out, expected))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_a_gradient_of_a_gradient() -> None:
    tensors = arguments(300)

    def second(linear: Callable[..., torch.Tensor]) -> tuple[torch.Tensor, ...]:
        (first,) = torch.autograd.grad(linear(*tensors).square().sum(), tensors[:1], create_graph=True)
        return torch.autograd.grad(first.square().sum(), tensors)

    for a, b in zip(second(products.linear), second(F.linear), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-1)
