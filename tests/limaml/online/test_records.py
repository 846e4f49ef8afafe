"""The bytes of one record."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from limaml.errors import DataError, StoreError
from limaml.online.records import Layout, Records, encode, encode_key, value_dtype
from limaml.schema import embedding_schema


def rows(*vectors: list[float]) -> pa.Table:
    count, width = len(vectors), len(vectors[0])
    numbers = [[each] * count for each in (0, 7, 3, 9)]
    columns = [[f"t{i}" for i in range(count)], list(vectors), ["m"] * count, *numbers]
    return pa.Table.from_arrays(
        [pa.array(c, f.type) for c, f in zip(columns, embedding_schema(width), strict=True)],
        schema=embedding_schema(width),
    )


def test_layout_is_the_documented_one() -> None:
    _, values = encode(rows([1.0, -2.0]), 2, "float16")
    assert values == [bytes.fromhex("003c00c0") + (7).to_bytes(8, "little") + (3).to_bytes(4, "little")]
    assert value_dtype(17, "float16").itemsize == 2 * 17 + 12
    assert value_dtype(17, "float32").itemsize == 4 * 17 + 12


@given(st.lists(st.lists(st.floats(-1000, 1000, width=32), min_size=3, max_size=3), min_size=1, max_size=5))
def test_round_trip(vectors: list[list[float]]) -> None:
    _, values = encode(rows(*vectors), 3, "float32")
    found = Records([None, *values], Layout(3, "float32"))
    np.testing.assert_array_equal(found.embedding[1:], np.array(vectors, np.float32))
    assert found.found.tolist() == [False] + [True] * len(vectors)
    assert not found.embedding[0].any()


def test_values_that_do_not_fit_the_precision_name_the_task() -> None:
    with pytest.raises(DataError, match=r"task t1: its embedding is not finite in float16 .*store\.dtype to float32"):
        encode(rows([1.0], [70_000.0]), 1, "float16")
    encode(rows([1.0], [70_000.0]), 1, "float32")


def test_keys_no_store_can_hold() -> None:
    assert encode_key("é" * 255) == "é".encode() * 255
    with pytest.raises(DataError, match="512 bytes") as raised:
        encode_key("é" * 256)
    assert "é" not in str(raised.value)
    with pytest.raises(DataError, match="0 bytes"):
        encode_key("")


def test_values_of_another_size_are_damage() -> None:
    with pytest.raises(StoreError, match="has 5 bytes where 16 are due"):
        Records([b"12345"], Layout(2, "float16"))


def test_wrong_width_is_refused() -> None:
    with pytest.raises(DataError, match="where float lists of width 3"):
        encode(rows([1.0, 2.0]), 3, "float16")
