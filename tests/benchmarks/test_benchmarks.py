"""Benchmarks run at their smallest size and return their figures; the loops they race compute the same thing."""

import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from benchmarks import delta, embeddings, inputs, memory, training
from benchmarks.loops import higher_loss, loop_embed, loop_loss, plain_vanilla_loss, split, vmap_loss
from benchmarks.reporting import interleaved, peak_mebibytes, ratio
from limaml.learning.adaptation import GlobalGradient, embed
from limaml.learning.objective import limaml_loss, vanilla_loss
from limaml.learning.rows import rows_of, support_and_query


@pytest.fixture(autouse=True)
def _threads():
    """Benchmarks set the process's threads: give them back."""
    import pyarrow as pa

    before = torch.get_num_threads(), pa.cpu_count(), pa.io_thread_count()
    yield
    torch.set_num_threads(before[0])
    pa.set_cpu_count(before[1])
    pa.set_io_thread_count(before[2])


@pytest.mark.parametrize("adapted", inputs.ADAPTED)
@pytest.mark.parametrize("gradient", training.GRADIENTS)
def test_loop_over_tasks_is_the_same_step(adapted: str, gradient: GlobalGradient):
    networks = [inputs.network(inputs.application(adapted)).double() for _ in range(2)]
    rows = rows_of(inputs.batch(5, support=6, query=3), dtype=torch.float64)
    is_query = torch.arange(45) % 9 >= 6
    support, query = rows.where(~is_query), rows.where(is_query)
    ours = limaml_loss(networks[0], support, query, 2, gradient)
    loop = loop_loss(networks[1], list(zip(split(support), split(query), strict=True)), 2, gradient)
    torch.testing.assert_close(ours, loop, rtol=1e-12, atol=0)
    ours.backward()
    loop.backward()
    for (name, a), (_, b) in zip(networks[0].named_parameters(), networks[1].named_parameters(), strict=True):
        if a.grad is not None or b.grad is not None:
            torch.testing.assert_close(a.grad, b.grad, rtol=1e-8, atol=1e-12, msg=name)


@pytest.mark.parametrize("adapted", inputs.ADAPTED)
def test_loop_over_tasks_makes_the_same_embeddings(adapted: str):
    network = inputs.network(inputs.application(adapted)).eval()
    support, _ = support_and_query(inputs.batch(5, support=6, query=0))
    torch.testing.assert_close(embed(network, support, 2), loop_embed(network, split(support), 2))


def test_vmap_higher_and_plain_pytorch_are_the_same_steps():
    app = inputs.application("meta_block", learned_task_learning_rate=False, inner_loss="mean")
    network = inputs.network(app).double()
    rows = rows_of(inputs.batch(5, support=6, query=3), dtype=torch.float64)
    is_query = torch.arange(45) % 9 >= 6
    support, query = rows.where(~is_query), rows.where(is_query)
    pairs = list(zip(split(support), split(query), strict=True))
    ours = limaml_loss(network, support, query, 1, "full")
    for peer in (vmap_loss(network, support, query, app.training.task_learning_rate), higher_loss(network, pairs, 1)):
        torch.testing.assert_close(peer, ours, rtol=1e-12, atol=0)
    torch.testing.assert_close(plain_vanilla_loss(network, rows), vanilla_loss(network, rows), rtol=1e-12, atol=0)


def test_training_figures():
    result = training.run(repeats=1, tasks=4, fit_tasks=20)
    ours = {f"n{n}_{gradient}" for n in (1, 3, 5) for gradient in training.GRADIENTS}
    for figures in (result, result["fast_products"]):
        for vanilla in ("vanilla", "own_vanilla"):
            assert set(figures[f"ratio_to_{vanilla}"]) == ours | {"n1_any_module", "n1_ragged"}
        for loop in ("loop", "lean_loop"):
            assert set(figures[f"{loop}_over_ours"]) == {"n1_direct", "n1_full"}
    assert set(result["learned_rates"]) == set(result["embedding"]) == ours | {"as_configured"}
    assert result["memory_over_vmap"] > 0
    assert set(result["fit_tasks_per_second"]) == {"vanilla", "limaml"}
    assert all(len(line) == 4 for line in training.rows(result))
    json.dumps(result)


def test_the_peak_of_a_call_is_what_it_held_at_its_height():
    held = peak_mebibytes(lambda: bytearray(300 << 20).count(1))
    assert 290 < held < 400


def test_embedding_figures():
    result = embeddings.run(tasks=40, repeats=1, batch=8)
    assert set(result["all"]) == {"meta_block_k1", "meta_block_k3", "embedding_k1", "embedding_k3"}
    assert result["tasks_per_second_per_core"] > 0
    assert result["loop_over_ours"] > 0
    # The floors are parts of what stands on them.
    assert all(figures["read_ratio"] > 1 for figures in result["all"].values())
    assert result["reading"]["rows_per_second_per_core"] > result["ragged"]["rows_per_second_per_core"] > 0
    assert 4 <= result["ragged"]["mean_rows_per_task"] <= 64
    assert all(len(line) == 4 for line in embeddings.rows(result))
    json.dumps(result)


def test_memory_of_a_stage_is_the_childs_own(tmp_path):
    ballast = bytearray(400 << 20)
    figures = memory.measure("simulate", str(tmp_path), tasks=20, limit=60.0)
    assert figures["finished"]
    assert 0.01 < figures["peak_gib"] < len(ballast) / 2**30
    assert 0 < figures["private_gib"] <= figures["peak_gib"]


def test_a_stage_past_its_limit_is_stopped(tmp_path):
    assert not memory.measure("simulate", str(tmp_path), tasks=20, limit=0.0)["finished"]


def test_memory_stops_at_the_first_stage_that_does_not_finish(tmp_path):
    result = memory.run(tasks=20, seconds=0.0, folder=str(tmp_path))
    assert list(result["stages"]) == ["simulate"]
    assert len(memory.rows(result)) == 1
    assert not (tmp_path / "ptap" / "data").exists()


def test_memory_knows_every_stage(tmp_path):
    names = list(memory.stages(str(tmp_path), 20))
    assert names[:3] == ["simulate", "validate", "group train"]
    assert names[-5:] == ["train", "embed", "gate", "publish", "monitor"]


def test_grouping_engines_agree():
    command = [sys.executable, "-m", "benchmarks.grouping", "--rows", "3000", "--json"]
    result = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert result["limaml"]["counts"] == result["polars"]["counts"]
    assert result["seconds_ratio"] > 0


def test_ratio_is_the_median_over_rounds():
    seconds = interleaved({"one": lambda: None, "two": lambda: None}, repeats=3)
    assert {name: len(values) for name, values in seconds.items()} == {"one": 3, "two": 3}
    assert ratio({"a": [2.0, 9.0, 6.0], "b": [1.0, 3.0, 1.0]}, "a", "b") == 3.0


def test_delta_counts_and_measures_what_changed(tmp_path: Path) -> None:
    result = delta.run(active=0.5, members=300, days=2)
    assert [day["compacted"] for day in result["days"]] == [False, False]
    assert 0 < result["computed_ratio"] < 1
    assert result["pushed_ratio"] >= result["computed_ratio"]
    assert len(delta.rows(result)) == 4
    days = [datetime(2026, 1, day, tzinfo=UTC) for day in (1, 1, 2, 3, 4)]
    pq.write_table(pa.table({"user_id": [1, 2, 2, 3, 1], "event_time": days}), tmp_path / "log.parquet")
    # On the 4th, of the two days before it: 2 lost the first of its rows, 3 came; 1 is not there.
    assert delta.count(str(tmp_path / "log.parquet"), "user_id", 2) == {
        "lookback_days": 2, "tasks": 2.0, "changed_ratio": 1.0,
    }  # fmt: skip
