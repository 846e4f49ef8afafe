"""Encoders against the obvious: numpy's mean and deviation, and lookups by hand."""

import numpy as np
import pytest
import torch

from limaml.learning.encoders import FeatureEncoder, FeatureStatistics, fit_statistics


def batches() -> list[tuple[np.ndarray, np.ndarray]]:
    random = np.random.default_rng(3)
    numeric = random.normal(5, 3, (100, 2)).astype(np.float32)
    numeric[::7, 0] = np.nan
    category = random.choice(np.array([7, 8, 9]), (100, 1), p=[0.5, 0.3, 0.2])
    return [(numeric[:30], category[:30]), (numeric[30:], category[30:])]


def test_statistics_stream_to_the_same_as_one_array() -> None:
    statistics = fit_statistics(batches(), [False, True], [2])
    numeric = np.concatenate([n for n, _ in batches()]).astype(np.float64)
    logged = np.sign(numeric[:, 1]) * np.log1p(np.abs(numeric[:, 1]))
    assert statistics.mean == pytest.approx([np.nanmean(numeric[:, 0]), logged.mean()])
    assert statistics.scale == pytest.approx([np.nanstd(numeric[:, 0]), logged.std()])
    assert statistics.nullable == [True, False]
    assert statistics.vocabulary == [[7, 8]]


def test_encoding_standardizes_flags_nulls_and_shares_one_vector_for_the_unknown() -> None:
    statistics = fit_statistics(batches(), [False, True], [2])
    encoder = FeatureEncoder(statistics, [4])
    numeric = torch.tensor([[statistics.mean[0] + statistics.scale[0], 0.0], [torch.nan, 0.0]])
    category = torch.tensor([[7], [12345]])
    encoded = encoder(numeric, category)
    assert encoded.shape == (2, encoder.width) == (2, 2 + 1 + 3)
    assert encoded[0, 0].item() == pytest.approx(1.0, abs=1e-6)
    assert encoded[:, 2].tolist() == [0.0, 1.0]
    assert encoded[1, 0] == 0
    unknown = encoder(numeric[:1], torch.tensor([[0]]))[0, 3:]
    torch.testing.assert_close(encoded[1, 3:], unknown)
    assert not torch.allclose(encoded[0, 3:], unknown)


def test_a_feature_far_from_zero_keeps_its_spread() -> None:
    seconds = 1.7e9 + np.random.default_rng(0).normal(0, 1000, (4, 500, 1))
    chunks = [(chunk.astype(np.float64), np.zeros((500, 0), np.int64)) for chunk in seconds]
    statistics = fit_statistics(chunks, [False], [])
    assert statistics.scale[0] == pytest.approx(seconds.std(), rel=1e-6)


def test_a_constant_feature_and_an_empty_vocabulary_encode_to_something_finite() -> None:
    statistics = fit_statistics([(np.full((4, 1), 2.0, np.float32), np.zeros((4, 1), np.int64))], [False], [5])
    encoder = FeatureEncoder(statistics, [4])
    assert encoder(torch.tensor([[3.0], [1e30]]), torch.tensor([[0], [99]])).isfinite().all()


@pytest.mark.parametrize("log", [[False, False], [False, True], [True, True]], ids=str)
@pytest.mark.parametrize("nullable", [[False, False], [True, False]], ids=str)
def test_every_mixture_of_features_equals_the_formula(log: list[bool], nullable: list[bool]) -> None:
    encoder = FeatureEncoder(FeatureStatistics(log, [0.5, -1.0], [2.0, 0.1], nullable, []), [])
    random = np.random.default_rng(0)
    raw = random.normal(scale=20, size=(50, 2)).astype(np.float32)
    raw[random.random((50, 2)) < 0.2] = np.nan
    raw[:2, 0] = np.inf, -np.inf
    given = torch.from_numpy(raw.copy())
    encoded = encoder(given, torch.zeros((50, 0), dtype=torch.int64)).numpy()
    value = np.where(log, np.sign(raw) * np.log1p(np.abs(raw)), raw)
    expected = np.nan_to_num(np.clip((value - [0.5, -1.0]) / [2.0, 0.1], -10, 10))
    if nullable[0]:
        expected = np.column_stack([expected, np.isnan(raw[:, 0])])
    np.testing.assert_allclose(encoded, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(given.numpy(), raw)
