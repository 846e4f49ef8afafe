"""Some tens of records in one value: what keeps stores that charge by the key, in memory or in money, small.

The byte format is written down in `docs/online_store_format.md`. A chunk's rows are spread over its pages by a hash of
the key, so a reader knows a key's page without looking. Every page of a chunk is written, empty ones too: a page that
is not there is a fault, and only a key that its page does not hold is absent.
"""

import struct
import zlib
from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from limaml.errors import StoreError

_HEADER = struct.Struct("<HI")  # how many records, size of one value
_REMOVED = 0x8000  # added to a key's length: the record has no value, its task was removed
_LENGTH = 0x7FFF


def page_of(key: bytes, pages: int) -> int:
    """Number of the page, of so many, that holds a key."""
    return zlib.crc32(key) % pages


def split(keys: Sequence[bytes], values: Sequence[bytes], target: int, maximum: int) -> list[bytes]:
    """The rows of a chunk as pages of about `target` bytes.

    Args:
        keys: ascending.
        values: of one size, or empty where a task was removed.
        target: bytes of a page of average size; at least one record.
        maximum: bytes no page exceeds.

    Raises:
        StoreError: records are too large for pages of this maximum.
    """
    size = max(map(len, values), default=0)
    stored = sum(map(len, keys)) + sum(map(len, values)) + 2 * len(keys)
    pages = max(1, min(len(keys), -(-stored // target)))
    hashes = np.fromiter(map(zlib.crc32, keys), np.uint32, len(keys))
    while True:
        made = _split(keys, values, size, hashes % pages, pages)
        largest = max(map(len, made))
        if largest <= maximum:
            return made
        # Chance put too many large records in one page; more pages make that rarer, unless a few fill a page anyway.
        if pages > 16 * len(keys):
            raise StoreError(
                f"a page of {largest} bytes, where the store takes {maximum}: values of {size} bytes are too large; "
                "choose a smaller network.embedding_width, store.dtype float16, or another store"
            )
        pages *= 2


def find(page: bytes, key: bytes) -> bytes | None:
    """A key's value; empty where its task was removed, None where the page does not hold it.

    Raises:
        StoreError: the bytes are not a page.
    """
    lengths, size, keys_at, values_at = _layout(page)
    for length in lengths:
        held = length & _LENGTH
        if held == len(key) and page.startswith(key, keys_at):
            return b"" if length & _REMOVED else page[values_at : values_at + size]
        keys_at += held
        values_at += 0 if length & _REMOVED else size
    return None


def rows(page: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values of a page, in key order.

    Raises:
        StoreError: the bytes are not a page.
    """
    lengths, size, keys_at, values_at = _layout(page)
    for length in lengths:
        held, value = length & _LENGTH, 0 if length & _REMOVED else size
        yield page[keys_at : keys_at + held], page[values_at : values_at + value]
        keys_at += held
        values_at += value


def _split(
    keys: Sequence[bytes], values: Sequence[bytes], size: int, numbers: npt.NDArray[np.uint32], pages: int
) -> list[bytes]:
    """Rows by the number of their page, each page in the order of its keys."""
    order = np.argsort(numbers, kind="stable")
    ends = np.cumsum(np.bincount(numbers, minlength=pages)).tolist()
    rows = order.tolist()
    keys, values = [keys[row] for row in rows], [values[row] for row in rows]
    lengths = np.fromiter(map(len, keys), "<u2", len(keys))
    if not all(values):
        lengths[[not value for value in values]] |= _REMOVED
    return [
        b"".join([_HEADER.pack(end - start, size), lengths[start:end].tobytes(), *keys[start:end], *values[start:end]])
        for start, end in pairwise([0, *ends])
    ]


def _layout(page: bytes) -> tuple[tuple[int, ...], int, int, int]:
    """Key lengths as stored, size of a value, and where keys and values begin."""
    try:
        count, size = _HEADER.unpack_from(page)
        lengths = struct.unpack_from(f"<{count}H", page, _HEADER.size)
    except struct.error as error:
        raise StoreError(f"a page of {len(page)} bytes is cut off; roll back, then publish again") from error
    keys_at = _HEADER.size + 2 * count
    removed = sum(length >> 15 for length in lengths)
    values_at = keys_at + sum(lengths) - removed * _REMOVED
    if len(page) != values_at + (count - removed) * size:
        raise StoreError(
            f"a page has {len(page)} bytes where {values_at + (count - removed) * size} are due: the generation is "
            "damaged; roll back, then publish again"
        )
    return lengths, size, keys_at, values_at
