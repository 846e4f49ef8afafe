"""Plain values give the arrays that a table of the same values gives, and the same complaints."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from limaml.config import Application, parse_application
from limaml.errors import DataError
from limaml.online.columns import Columns, Encoder
from limaml.online.requests import Candidates, candidates_of_table
from tests.conftest import SMALL

ALSO = [{"name": "member_type", "keys": ["member_id", "notification_type"], "meta": ["member_x1", "notification_type"]}]
INTEGERS = st.integers(-(2**63), 2**63 - 1)
NUMBERS = st.one_of(
    st.lists(st.one_of(st.none(), INTEGERS), min_size=3, max_size=3),
    st.lists(st.one_of(st.none(), st.floats(width=32, allow_infinity=False)), min_size=3, max_size=3),
    st.lists(st.one_of(st.none(), st.floats(-1e38, 1e38)), min_size=3, max_size=3),
    st.lists(st.one_of(st.none(), st.booleans()), min_size=3, max_size=3),
)
TEXT = st.text(st.characters(codec="utf-8"))
CATEGORIES = st.one_of(NUMBERS, st.lists(st.one_of(st.none(), TEXT), min_size=3, max_size=3))
KEYS = st.one_of(st.lists(INTEGERS, min_size=3, max_size=3), st.lists(TEXT, min_size=3, max_size=3))
ROWS = st.fixed_dictionaries(
    {
        "member_id": KEYS,
        "member_x0": NUMBERS,
        "member_x1": NUMBERS,
        "member_kind": CATEGORIES,
        "item_x0": NUMBERS,
        "item_x1": NUMBERS,
        "notification_type": st.lists(TEXT, min_size=3, max_size=3),
    }
)


@pytest.fixture(scope="module")
def both() -> Application:
    return parse_application(SMALL | {"also": ALSO}, "tests")


def same(left: Candidates, right: Candidates) -> None:
    assert left.rows == right.rows
    assert (left.meta is None) == (right.meta is None)
    for ours, theirs in ((left.other, right.other), (left.meta or left.other, right.meta or right.other)):
        np.testing.assert_array_equal(ours[0], theirs[0])
        np.testing.assert_array_equal(ours[1], theirs[1])
        assert (ours[0].dtype, ours[1].dtype) == (theirs[0].dtype, theirs[1].dtype)
    for ours, theirs in zip(left.tasks, right.tasks, strict=True):
        assert len(set(ours.stored)) == len(ours.stored)
        assert [ours.stored[at] for at in ours.of_row] == [theirs.stored[at] for at in theirs.of_row]


@given(ROWS)
def test_equal_to_a_table_of_the_same_values(both: Application, rows: dict[str, list[Any]]) -> None:
    same(Encoder(both).candidates(Columns(3, rows)), candidates_of_table(both, pa.table(rows)))


@given(ROWS)
def test_what_all_rows_share_is_said_once(both: Application, rows: dict[str, list[Any]]) -> None:
    shared = {name: values[:1] if "member" in name else values for name, values in rows.items()}
    repeated = {name: values[:1] * 3 if "member" in name else values for name, values in rows.items()}
    same(Encoder(both).candidates(Columns(3, shared)), Encoder(both).candidates(Columns(3, repeated)))


def valid(**changes: list[Any]) -> dict[str, list[Any]]:
    rows: dict[str, list[Any]] = {name: [1, 2, 3] for name in ("member_id", "item_x0", "item_x1", "notification_type")}
    return rows | changes


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"member_id": [1, None, 3]}, "column member_id, row 1: null in a task key"),
        ({"member_id": [1, 2, 2.5]}, "column member_id, row 2: a task key must be a string or an integer, not 2.5"),
        ({"member_id": [True, 1, 1]}, "column member_id, row 0: a task key must be a string or an integer, not True"),
        ({"member_id": [2**63, 1, 1]}, "column member_id, row 0: a task key must be below 2"),
        ({"item_x0": [1, "2", 3]}, "column item_x0, row 1: a numeric feature must be a number.*, not '2'"),
        ({"item_x1": [1, 2, [3]]}, r"column item_x1, row 2: a numeric feature .*, not \[3\]"),
        ({"item_x1": [1, 1e39, 3]}, "column item_x1, row 1: the value is infinite in float32"),
        ({"notification_type": [{}, 1, 2]}, "column notification_type, row 0: a categorical feature .*, not {}"),
        ({"item_x0": ["x" * 1000, 1, 1]}, "not 'x{39}…"),
        ({"member_x0": [1, 1, 1]}, "meta feature columns member_x1, member_kind missing, while member_x0 are there"),
    ],
)
def test_wrong_values_are_named(application: Application, change: dict[str, list[Any]], message: str) -> None:
    with pytest.raises(DataError, match=message):
        Encoder(application).candidates(Columns(3, valid(**change)))


def test_missing_columns_are_named(application: Application) -> None:
    rows = valid()
    del rows["item_x0"]
    with pytest.raises(DataError, match="feature column item_x0 missing; the columns are member_id"):
        Encoder(application).candidates(Columns(3, rows))
    del rows["member_id"]
    with pytest.raises(DataError, match="task key column member_id missing"):
        Encoder(application).candidates(Columns(3, rows))


def test_no_rows(application: Application) -> None:
    empty = Encoder(application).candidates(Columns(0, {name: [] for name in valid()}))
    assert (empty.other[0].shape, empty.other[1].shape, empty.tasks[0].stored) == ((0, 2), (0, 1), [])
    shared = Encoder(application).candidates(Columns(0, {name: [1] for name in valid()}))
    assert (shared.other[0].shape, shared.tasks[0].of_row.shape) == ((0, 2), (0,))
