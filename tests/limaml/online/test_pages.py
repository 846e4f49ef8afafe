"""Records in pages: whatever is put in comes out, each key is where a reader looks for it, and damage is said."""

import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from limaml.errors import StoreError
from limaml.online.pages import find, page_of, rows, split

KEYS = st.lists(st.binary(min_size=1, max_size=511), unique=True, max_size=60).map(sorted)


@given(KEYS, st.integers(1, 300), st.integers(1, 2000), st.data())
def test_what_was_put_in_comes_out(keys: list[bytes], size: int, target: int, data: st.DataObject) -> None:
    removed = data.draw(st.lists(st.booleans(), min_size=len(keys), max_size=len(keys)))
    values = [b"" if gone else key.ljust(size, b".")[:size] for key, gone in zip(keys, removed, strict=True)]
    made = split(keys, values, target, 1 << 20)
    assert sorted(pair for page in made for pair in rows(page)) == list(zip(keys, values, strict=True))
    for key, value in zip(keys, values, strict=True):
        assert [find(page, key) for page in made].count(value) == 1
        assert find(made[page_of(key, len(made))], key) == value
    assert all(find(page, b"nobody asked for this one") is None for page in made)


def test_the_format_is_the_one_written_down() -> None:
    (page,) = split([b"a", b"bc"], [b"", b"12"], 1000, 1000)
    assert page == bytes.fromhex("0200 02000000 0180 0200") + b"abc12"


def test_pages_are_of_about_the_target_and_never_above_the_maximum() -> None:
    keys = sorted(str(number).encode() for number in range(20_000))
    sizes = np.array([len(page) for page in split(keys, [b"." * 140] * len(keys), 3200, 4600)])
    assert sizes.max() <= 4600
    sizes = np.array([len(page) for page in split(keys, [b"." * 140] * len(keys), 3200, 1 << 20)])
    assert sizes.mean() == pytest.approx(3200, rel=0.01)
    assert (sizes > 4096).mean() < 0.15


def test_records_too_large_for_any_page_are_refused() -> None:
    keys = sorted(str(number).encode() for number in range(50))
    with pytest.raises(StoreError, match="values of 3000 bytes are too large"):
        split(keys, [b"." * 3000] * 50, 1000, 2000)


@pytest.mark.parametrize(
    "damage", [lambda page: page[:-1], lambda page: page[:5], lambda page: page + b"x", lambda _: b""]
)
def test_damage_is_said(damage) -> None:
    (page,) = split([b"a", b"b"], [b"1", b"2"], 1000, 1000)
    with pytest.raises(StoreError, match=r"cut off|bytes where"):
        find(damage(page), b"a")


def test_a_key_s_page_does_not_depend_on_this_implementation() -> None:
    assert page_of(b"42|digest", 1000) == zlib.crc32(b"42|digest") % 1000 == 46
