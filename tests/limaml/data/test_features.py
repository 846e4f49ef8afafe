"""Arrays from raw columns, against plain Python."""

import hashlib
import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from limaml.config import Feature
from limaml.data.features import category_code, category_codes, encode_features, plain_codes
from limaml.errors import DataError


def slow_code(text: str | None) -> int:
    if text is None:
        return 0
    return max(int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1, 1)


def test_columns_follow_the_order_of_the_configuration():
    features = [
        Feature(name="age"),
        Feature(name="city", kind="categorical"),
        Feature(name="clicks"),
        Feature(name="kind", kind="categorical"),
        Feature(name="active"),
    ]
    table = pa.table(
        {
            "unused": ["x", "y", "z"],
            "kind": pa.array([1, None, 3], pa.int32()),
            "active": [True, False, None],
            "clicks": pa.array([2**40, None, -7], pa.int64()),
            "city": ["Oslo", "Łódź", None],
            "age": pa.array([1.5, math.nan, None], pa.float64()),
        }
    )
    numeric, codes = encode_features(features, table)
    assert (numeric.dtype, codes.dtype) == (np.float32, np.int64)
    np.testing.assert_array_equal(
        numeric, np.array([[1.5, 2**40, 1], [np.nan, np.nan, 0], [np.nan, -7, np.nan]], np.float32)
    )
    expected = [[slow_code("Oslo"), slow_code("1")], [slow_code("Łódź"), 0], [0, slow_code("3")]]
    np.testing.assert_array_equal(codes, expected)


@pytest.mark.parametrize(
    "values",
    [
        pa.array([3, None, -12], pa.int8()),
        pa.array([3, None, -12], pa.int64()),
        pa.array([3.0, None, -12.0], pa.float32()),
        pa.array([3.0, math.nan, -12.0], pa.float64()),
        pa.array(["3", None, "-12"]),
        pa.array(["3", None, "-12"], pa.large_string()),
        pa.array(["3", None, "-12"]).dictionary_encode(),
        pa.array([3, None, -12]).dictionary_encode(),
    ],
    ids=lambda values: str(values.type),
)
def test_one_value_has_one_code_whatever_its_type(values: pa.Array):
    np.testing.assert_array_equal(category_codes(values), [slow_code("3"), 0, slow_code("-12")])


def test_texts_of_other_values():
    assert list(category_codes(pa.array([True, False]))) == [slow_code("true"), slow_code("false")]
    assert list(category_codes(pa.array([0.5, -0.0]))) == [slow_code("0.5"), slow_code("0")]
    assert list(category_codes(pa.array([""]))) == [slow_code("")]
    assert list(category_codes(pa.nulls(2))) == [0, 0]
    assert list(category_codes(pa.DictionaryArray.from_arrays(pa.array([0, 1]), pa.array(["a", None])))) == [
        slow_code("a"),
        0,
    ]


def test_codes_are_pinned_across_versions():
    """Codes live in trained models: these three may never change."""
    assert list(category_codes(pa.array(["digest", "3", ""]))) == [
        7766567023568957024,
        56133173902086863,
        6510301506637419378,
    ]


@given(st.lists(st.one_of(st.none(), st.text(st.characters(codec="utf-8"))), max_size=30))
def test_codes_equal_the_slow_reference_for_any_text(texts: list[str | None]):
    array = pa.array(texts, pa.string())
    np.testing.assert_array_equal(category_codes(array), np.array([slow_code(t) for t in texts], np.int64))


@given(st.one_of(st.none(), st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats(), st.text(max_size=200)))
def test_the_code_of_one_value_is_that_of_a_column(value: str | float | bool | None):
    assert category_code(value) == category_codes(pa.array([value]))[0]


@given(st.lists(st.one_of(st.none(), st.booleans(), st.integers(-2, 2), st.floats(), st.sampled_from("012"))))
def test_codes_of_plain_values_are_those_of_each(values: list):
    assert plain_codes(values) == [category_code(value) for value in values]
    texts = [value for value in values if isinstance(value, str)]
    assert plain_codes(texts) == [category_code(value) for value in texts]


def test_chunks_slices_and_record_batches_give_the_same():
    features = [Feature(name="x"), Feature(name="c", kind="categorical")]
    table = pa.table({"x": [1.0, None, 3.0, 4.0], "c": ["a", "b", None, "a"]})
    numeric, codes = encode_features(features, table)
    chunked = pa.concat_tables([table.slice(0, 1), table.slice(1, 2), table.slice(3)])
    for other in (chunked, table.to_batches()[0]):
        np.testing.assert_array_equal(encode_features(features, other)[0], numeric)
        np.testing.assert_array_equal(encode_features(features, other)[1], codes)
    np.testing.assert_array_equal(encode_features(features, table.slice(1, 2))[0], numeric[1:3])
    np.testing.assert_array_equal(encode_features(features, table.slice(1, 2))[1], codes[1:3])


def test_no_rows_and_no_features_keep_their_shapes():
    table = pa.table({"x": pa.array([], pa.float32())})
    numeric, codes = encode_features([Feature(name="x")], table)
    assert (numeric.shape, codes.shape) == ((0, 1), (0, 0))


def test_a_missing_column_is_named():
    with pytest.raises(DataError, match=r"columns y, z missing; the columns are x"):
        encode_features([Feature(name="x"), Feature(name="y"), Feature(name="z")], pa.table({"x": [1]}))


def test_a_type_that_is_no_number_is_named():
    with pytest.raises(DataError, match=r"column x: .* not string"):
        encode_features([Feature(name="x")], pa.table({"x": ["1"]}))
    with pytest.raises(DataError, match=r"column c: .* not list"):
        encode_features([Feature(name="c", kind="categorical")], pa.table({"c": [[1]]}))
