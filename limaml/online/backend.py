"""What a store reached over a network must be able to do; `limaml.online.paged_store` makes a Store of it.

Pages hold embeddings and are spread over the whole of the store. Records are small, belong together, and change only
under a lease and by compare-and-set: plans and seals of generations, chunks, releases, the pointer.
"""

from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Protocol

from limaml.online.writer_lease import Lease, Leases

PLANS = "plans"  # generation → what it was begun as; there from begin to the end of discard
SEALS = "seals"  # generation → its seal, without chunks; readable while this is there
RELEASES = "releases"  # number → release


def chunks_of(generation: str) -> str:
    """The kind of record that a generation's chunks are."""
    return f"chunks:{generation}"


class Flip(Enum):
    """How moving the pointer ended."""

    DONE = 0
    MOVED = 1  # the current release was not the one expected
    UNSEALED = 2  # the release's generation is not sealed


class Backend(Leases, Protocol):
    """Every method may raise StoreError, and none leaves half of what it says."""

    page_bytes: int  # of a page of average size
    maximum_page_bytes: int

    def current(self) -> bytes | None:
        """The release the pointer names."""
        ...

    def flip(self, number: int, generation: str, body: bytes) -> Flip:
        """Record release `number` and point to it, if the current one is `number - 1` and its generation is sealed."""
        ...

    def retire(self, generation: str, lease: Lease) -> bool:
        """Remove a generation's seal, unless the current release reads it; whether it has none any more."""
        ...

    def record(self, kind: str, name: str) -> bytes | None:
        """One record."""
        ...

    def records(self, kind: str) -> dict[str, bytes]:
        """All records of a kind, by name."""
        ...

    def put(self, kind: str, name: str, body: bytes, lease: Lease) -> None:
        """Write a record while the lease is ours."""
        ...

    def drop(self, kind: str, name: str, lease: Lease) -> None:
        """Remove a record, if it is there, while the lease is ours."""
        ...

    def read_pages(self, names: Sequence[str], newest: bool = False) -> list[bytes | None]:
        """Pages by name, None where there is none; `newest` asks for what was written a moment ago, too."""
        ...

    def write_pages(self, pages: Mapping[str, bytes]) -> None:
        """Write pages, over those of the same name; some may be written when it raises."""
        ...

    def delete_pages(self, names: Sequence[str]) -> None:
        """Delete pages; some may be deleted when it raises, and it may be repeated."""
        ...
