"""The benchmarks of devices and of rounding: figures at their smallest size, and rounding as the hardware does it."""

import torch

from benchmarks import gpu, inputs, precision


def test_every_figure_of_a_device_is_there() -> None:
    result = gpu.run("cpu", (4,), repeats=1)
    for form in inputs.ADAPTED:
        (size,) = result[form]
        assert set(size["generation"]) == {"k1", "k3"}
        assert size["training"]["vanilla"]["ratio_to_vanilla"] == 1.0
        for part in ("training", "generation"):
            assert all(figures["tasks_per_second"] > 0 for figures in size[part].values())
            assert all(figures["fraction_of_floor"] > 0 for figures in size[part].values())
    assert len(gpu.rows(result)) == 2 * (6 + 2)


def test_rounding_to_seven_bits_is_bfloat16() -> None:
    x = torch.randn(10_000, generator=torch.Generator().manual_seed(0)) * 3
    x[:4] = torch.tensor([0.0, -0.0, 1.0 + 2**-8, 1.0 + 3 * 2**-8])  # ties go to even
    assert torch.equal(precision.rounded_to(x, 7), x.bfloat16().float())


def test_rounded_loops_err_more_with_fewer_bits() -> None:
    for form in inputs.ADAPTED:
        found = precision.figures(form, tasks=8)
        for k in precision.STEPS:
            for what in ("loop", "all"):
                assert 0 < 3 * found[f"tf32_k{k}_{what}"] < found[f"bf16_k{k}_{what}"]
