"""Layers read as one generation, held against a dictionary that had the same changes applied."""

from datetime import UTC, date, datetime
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from limaml.errors import StoreError
from limaml.online.overlay import Overlay, chain, open_generation
from limaml.online.records import TOMBSTONE, value_dtype
from limaml.online.store import Generation, Store, open_store

WIDTH = 3
KEYS = st.text("abc", min_size=1, max_size=2)
LAYERS = st.lists(st.dictionaries(KEYS, st.integers(1, 9) | st.none(), max_size=8), min_size=1, max_size=4)


def write(store: Store, name: str, rows: dict[str, int | None], base: str = "", **changes: object) -> Generation:
    """A sealed layer: numbers become embeddings, None a tombstone."""
    plan = Generation(
        name=name, application="small", model_version="m1", embeddings_digest=name, as_of=date(2026, 1, 1),
        newest_event_time=datetime(2026, 1, 1, tzinfo=UTC), tasks=len(rows), width=WIDTH, dtype="float32",
        buffer_rows=4, base=base,
    ).model_copy(update=changes)  # fmt: skip
    layout = value_dtype(WIDTH, plan.dtype)
    keys = sorted(rows)
    values = [np.array([(row, row, row)], layout).tobytes() if (row := rows[key]) else TOMBSTONE for key in keys]
    with store.begin(plan) as writer:
        if keys:
            writer.write(0, [key.encode() for key in keys], values)
        return writer.seal()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("overlay")


@settings(max_examples=15)
@given(layers=LAYERS, asked=st.lists(KEYS, max_size=12), number=st.integers(0, 2**60))
def test_equals_the_changes_applied_to_a_dictionary(
    folder: Path, layers: list[dict[str, int | None]], asked: list[str], number: int
) -> None:
    store = open_store(f"lmdb://{folder}/{number}-{len(list(folder.iterdir()))}", "small")
    names = ["", *(f"g{index}" for index in range(len(layers)))]
    truth: dict[str, int | None] = {}
    for (base, name), rows in zip(pairwise(names), layers, strict=True):
        write(store, name, rows, base)
        truth |= rows
    reader = open_generation(store, names[-1])
    records = reader.get(asked)
    reader.close()
    expected = [truth.get(key) for key in asked]
    assert records.found.tolist() == [value is not None for value in expected]
    assert records.embedding.tolist() == [[float(value or 0)] * WIDTH for value in expected]
    assert records.samples.tolist() == [value or 0 for value in expected]
    assert reader.generation.name == names[-1]


def test_a_layer_that_answers_everything_spares_those_below(tmp_path: Path) -> None:
    store = open_store(f"lmdb://{tmp_path}/store", "small")
    write(store, "g0", {"a": 1, "b": 2})
    write(store, "g1", {"a": None, "b": 3}, "g0")
    reader = open_generation(store, "g1")
    assert isinstance(reader, Overlay)
    below = store.open("g0")
    below.close()
    reader._layers = [reader._layers[0], below]
    assert reader.get(["a", "b"]).found.tolist() == [False, True]
    with pytest.raises(StoreError, match="can't read"):
        reader.get(["c"])


def test_a_chain_that_does_not_hold(tmp_path: Path) -> None:
    store = open_store(f"lmdb://{tmp_path}/store", "small")
    write(store, "g0", {"a": 1})
    write(store, "g1", {"a": 2}, "g0")
    write(store, "g2", {"a": 3}, "g1", model_version="m2")
    write(store, "g9", {"a": 3}, format=99)
    assert [each.name for each in chain(store, "g1")] == ["g1", "g0"]
    with pytest.raises(StoreError, match=r"g2 is 3 × float32 of model m2, but lies on g1, which is .* of model m1"):
        open_generation(store, "g2")
    with pytest.raises(StoreError, match="g9 is of format 99, newer than"):
        open_generation(store, "g9")
    assert store.discard("g0")
    with pytest.raises(StoreError, match="no sealed generation g0, which g1 lies on; roll back"):
        open_generation(store, "g1")
