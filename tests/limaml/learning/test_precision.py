"""The probe of float32 products: what it decides, and that nothing outside the block changes."""

import pytest
import torch

from limaml.learning import precision
from limaml.learning.precision import best_precision, choose, fast_products, measure


@pytest.mark.parametrize(
    ("medium_seconds", "medium_error", "expected"),
    [
        (0.5, 1e-6, "medium"),
        (0.5, 2e-6, "medium"),
        (0.5, 1e-3, "highest"),
        (0.95, 1e-6, "highest"),
        (2.0, 1e-6, "highest"),
    ],
    ids=["faster", "another order of sums", "bfloat16", "hardly faster", "slower"],
)
def test_speed_counts_only_at_the_error_of_float32(medium_seconds: float, medium_error: float, expected: str) -> None:
    assert choose(1.0, 1e-6, medium_seconds, medium_error) == expected


def test_an_error_of_bfloat16_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    exact = measure("highest")[1]
    product = torch.Tensor.__matmul__

    def rounded(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return (
            product(a.bfloat16().to(a.dtype), b.bfloat16().to(b.dtype)) if a.dtype == torch.float32 else product(a, b)
        )

    monkeypatch.setattr(torch.Tensor, "__matmul__", rounded)
    error = measure("highest")[1]
    assert error > 50 * exact
    assert choose(1.0, exact, 0.1, error) == "highest"


def test_what_was_chosen_is_as_exact_as_float32() -> None:
    assert measure(best_precision())[1] <= precision.MAXIMUM_ERROR_RATIO * measure("highest")[1]


@pytest.mark.parametrize("fails", [False, True], ids=["ends well", "raises"])
def test_the_setting_holds_inside_the_block_only(monkeypatch: pytest.MonkeyPatch, fails: bool) -> None:
    monkeypatch.setattr(precision, "best_precision", lambda: "medium")
    before = torch.get_float32_matmul_precision()
    try:
        with fast_products():
            assert torch.get_float32_matmul_precision() == "medium"
            if fails:
                raise ValueError
    except ValueError:
        assert fails
    assert torch.get_float32_matmul_precision() == before


def test_another_device_keeps_its_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "best_precision", lambda: "medium")
    before = torch.get_float32_matmul_precision()
    with fast_products("cuda"):
        assert torch.get_float32_matmul_precision() == before
