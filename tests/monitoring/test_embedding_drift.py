import numpy as np
import pytest

from limaml.config import Monitoring
from monitoring.checks import alarms
from monitoring.embedding_drift import EmbeddingSummary, Floats, compare, embedding_checks

LIMIT = Monitoring().embedding_shift
WIDTH = 17


def generation(seed: int, tasks: int = 800) -> Floats:
    """Embeddings around a mean far from zero, coordinates of different scale."""
    world = np.random.default_rng(7)
    mean, scale = world.normal(size=WIDTH) * 2, np.exp(world.normal(size=WIDTH))
    return (mean + scale * np.random.default_rng(seed).normal(size=(tasks, WIDTH))).astype(np.float32)


def next_day(before: Floats, seed: int) -> Floats:
    """The same tasks a day later: a little noise around what they were."""
    noise = np.random.default_rng(seed).normal(size=before.shape) * before.std(axis=0) * 0.3
    return (before + noise).astype(np.float32)


def summary(embedding: Floats, parts: int = 1, prefix: str = "") -> EmbeddingSummary:
    result = EmbeddingSummary()
    ids = np.array([f"{prefix}{i}" for i in range(len(embedding))])
    for chosen in np.array_split(np.arange(len(embedding)), parts):
        result.add(ids[chosen].tolist(), embedding[chosen])
    return result


def alarm_names(before: Floats, now: Floats) -> set[str]:
    a, b = summary(before), summary(now)
    return {alarm["name"] for alarm in alarms(embedding_checks(compare(a, b), b.zero_share, LIMIT))}


def test_moments_equal_the_plain_ones_however_they_are_streamed() -> None:
    embedding = generation(0) + np.float32(1000)
    for parts in (1, 9):
        streamed = summary(embedding, parts)
        plain = embedding.astype(np.float64)
        np.testing.assert_allclose(streamed.mean, plain.mean(axis=0), rtol=1e-9)
        np.testing.assert_allclose(streamed.deviation, plain.std(axis=0), rtol=1e-6)
        assert streamed.mean_norm == pytest.approx(np.linalg.norm(plain, axis=1).mean())
        assert streamed.spread == pytest.approx(np.sqrt(np.square(plain - plain.mean(axis=0)).sum(axis=1).mean()))


def test_healthy_days_raise_no_alarm() -> None:
    for seed in range(20):
        for tasks in (200, 2000):
            before = generation(seed, tasks)
            assert alarm_names(before, next_day(before, 500 + seed)) == set()


@pytest.mark.parametrize(
    ("fault", "seen_by"),
    [
        ("shifted", "embedding_shift"),
        ("one coordinate", "embedding_coordinate_shift"),
        ("collapsed to the mean", "embedding_spread_ratio"),
        ("scaled", "embedding_norm_ratio"),
        ("rotated", "embedding_cosine"),
        ("wrong keys", "embedding_cosine"),
        ("sign", "embedding_cosine"),
        ("zeros", "embedding_zero_share"),
    ],
)
def test_planted_faults_raise_the_alarm_that_names_them(fault: str, seen_by: str) -> None:
    for seed in range(20):
        before = generation(seed)
        now = next_day(before, 500 + seed)
        mean = now.mean(axis=0)
        generator = np.random.default_rng(900 + seed)
        if fault == "shifted":
            now = now + now.std(axis=0) * np.float32(0.8)
        elif fault == "one coordinate":
            narrow = int(now.std(axis=0).argmin())
            now[:, narrow] += now[:, narrow].std()
        elif fault == "collapsed to the mean":
            now = mean + (now - mean) * np.float32(0.1)
        elif fault == "scaled":
            now = now * np.float32(0.5)
        elif fault == "rotated":
            rotation, _ = np.linalg.qr(generator.normal(size=(WIDTH, WIDTH)))
            now = (mean + (now - mean) @ rotation).astype(np.float32)
        elif fault == "wrong keys":
            now = now[generator.permutation(len(now))]
        elif fault == "sign":
            now = -now
        else:
            now[: len(now) // 8] = 0
        assert seen_by in alarm_names(before, now)


def test_the_first_day_looks_at_zeros_alone() -> None:
    healthy = summary(generation(0))
    assert [check.name for check in embedding_checks(None, healthy.zero_share, LIMIT)] == ["embedding_zero_share"]
    assert alarms(embedding_checks(None, summary(np.zeros((10, 3), np.float32)).zero_share, LIMIT))


def test_without_common_tasks_there_is_no_cosine() -> None:
    a, b = summary(generation(0)), summary(generation(1), prefix="other ")
    effects = compare(a, b)
    assert effects["common_tasks"] == 0
    assert "embedding_cosine" not in {check.name for check in embedding_checks(effects, 0.0, LIMIT)}


def test_the_sample_is_bounded_and_the_same_tasks_on_both_days() -> None:
    before = generation(0, 3000)
    small = [EmbeddingSummary(sample=100) for _ in range(2)]
    ids = [str(i) for i in range(3000)]
    small[0].add(ids, before)
    small[1].add(ids[::-1], before[::-1])
    assert small[0].task_ids == small[1].task_ids
    assert len(small[0].task_ids) == 100
    assert compare(*small)["common_tasks"] == 100
    assert compare(*small)["cosine"] == pytest.approx(1.0)


def test_everything_zero_is_an_alarm_not_a_crash() -> None:
    before = generation(0)
    assert "embedding_spread_ratio" in alarm_names(before, np.zeros_like(before))
    assert "embedding_shift" in alarm_names(np.zeros_like(before), before)
