"""What an online store is: generations of embeddings, immutable once sealed, and one pointer per application.

A release is the pair (model version, embedding generation). Publishing and rolling back only ever move the pointer, by
compare-and-set, so a reader sees one whole release or the other. `limaml.online.release` holds the order of steps;
a store holds only what depends on the technology below it.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import UTC, date, datetime
from typing import Protocol

from pydantic import BaseModel, ConfigDict, Field

from limaml.online.records import FORMAT, Precision, Records
from limaml.store_urls import store_scheme


class Chunk(BaseModel):
    """Consecutive rows of a generation, in key order, written as one transaction."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rows: int
    sha256: str


class Generation(BaseModel):
    """Embeddings as a store keeps them, `tasks` of them as readers see it; `rows` and what follows come with the seal.

    One with a `base` is an overlay (`limaml.online.overlay`): it holds only what differs from it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    format: int = FORMAT
    name: str
    application: str
    model_version: str
    embeddings_digest: str
    as_of: date
    newest_event_time: datetime
    tasks: int
    width: int
    dtype: Precision
    buffer_rows: int = Field(description="a chunk ends where at least so many rows are together")
    base: str = Field(default="", description="the generation this one lies over; empty: it is complete by itself")
    rows: int = Field(default=0, description="records it holds itself, tombstones included")
    chunks: tuple[Chunk, ...] = ()
    bytes: int = Field(default=0, description="size of the stored generation, where the store can tell")
    sealed_at: datetime | None = None


class Release(BaseModel):
    """What scoring reads: a model and the embeddings made by it, never one without the other."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    number: int = Field(ge=1, description="counts every move of the pointer, rollbacks included")
    application: str
    model_version: str
    model_uri: str
    model_digest: str
    generation: str
    as_of: date
    cutoff: datetime = Field(description="the instant as_of begins, UTC: every event used lies before it")
    newest_event_time: datetime
    tasks: int
    width: int
    dtype: Precision
    embeddings_digest: str
    previous: int | None = Field(description="the release a rollback returns to")
    rollback_from: int | None = Field(default=None, description="the release this one replaced by a rollback")
    held: str = Field(default="", description="why newer publishes wait; empty: they don't")
    verified: dict[str, int | float | str] = Field(default_factory=dict, description="what was checked before the flip")
    published_at: datetime = Field(default_factory=lambda: datetime.now(UTC))

    @property
    def name(self) -> str:
        """How people call it: `r3-20260131-0f1e2d3c4b5a`."""
        return f"r{self.number}-{self.generation}"


class Reader(Protocol):
    """A sealed generation, open for reading; safe to share between threads."""

    @property
    def generation(self) -> Generation:
        """Its seal."""
        ...

    def get(self, task_ids: Sequence[str]) -> Records:
        """Records of the tasks, in the order asked; absent ones are marked, never an error.

        Raises:
            StoreError: the read failed. Anything but a clean "not there" is a failure, never an absent task.
        """
        ...

    def close(self) -> None: ...


class Layer(Reader, Protocol):
    """One generation by itself, without the bases below it."""

    def count(self) -> int:
        """How many records it really holds, tombstones included."""
        ...


class Writer(Protocol):
    """One generation in the making. Whoever dies leaves the chunks that were written for the next writer."""

    @property
    def chunks(self) -> Mapping[int, Chunk]:
        """What is written so far, by index."""
        ...

    def write(self, index: int, keys: Sequence[bytes], values: Sequence[bytes]) -> None:
        """Write chunk `index`, keys ascending and above those of the chunk before; a written chunk is a no-op.

        An empty value is a tombstone: whatever the layers below hold, the task is absent.

        Raises:
            StoreError: the write failed, or another chunk was written under this index.
            DataError: keys are not ascending.
        """
        ...

    def seal(self) -> Generation:
        """Make the generation immutable and return it with its `rows` and sums."""
        ...


class Store(Protocol):
    """An online store, as seen by one application. Every method may raise StoreError."""

    url: str
    takes_several_writers: bool  # at once, of one generation

    def current(self) -> Release | None:
        """The release the pointer names."""
        ...

    def releases(self) -> list[Release]:
        """Every release there has been, newest first."""
        ...

    def flip(self, release: Release) -> None:
        """Point to `release`.

        Raises:
            ReleaseConflict: the current release is not number `release.number - 1`.
            StoreError: its generation is not sealed: somebody collected it meanwhile.
        """
        ...

    def generations(self) -> list[str]:
        """Names of all generations, sealed or not."""
        ...

    def sealed(self, name: str) -> Generation | None:
        """A sealed generation, None where it is missing or unfinished."""
        ...

    def begin(self, plan: Generation, together: bool = False) -> AbstractContextManager[Writer]:
        """Start or resume a generation; `together` with others that do, where the store takes several writers.

        Raises:
            StoreError: another process is writing it.
        """
        ...

    def open(self, name: str) -> Layer:
        """A sealed generation by itself; read a release through `limaml.online.overlay.open_generation`."""
        ...

    def audit(self, name: str) -> None:
        """Read a sealed generation back and compare it with its sums.

        Raises:
            StoreError: it differs.
        """
        ...

    def discard(self, name: str) -> bool:
        """Delete a generation; False, and nothing done, when another process is writing it or it is the current one."""
        ...


def open_store(url: str, application: str) -> Store:
    """The store behind a URL, scoped to one application.

    Raises:
        ConfigError: no such kind of store, or an option it does not have.
        StoreError: it can't be reached.
    """
    match store_scheme(url):
        case "lmdb":
            from limaml.online.lmdb_store import LmdbStore

            return LmdbStore(url, application)
        case "dynamodb":
            from limaml.online.dynamodb_store import open_dynamodb

            return open_dynamodb(url, application)
        case _:
            from limaml.online.redis_store import open_redis

            return open_redis(url, application)


def prepare_store(url: str) -> bool:
    """Make what a store needs before its first publish: DynamoDB's table. Whether there was anything to make.

    Raises:
        ConfigError: no such kind of store, or an option it does not have.
        StoreError: it can't be made.
    """
    if store_scheme(url) != "dynamodb":
        return False
    from limaml.online.dynamodb_store import create_table

    return create_table(url)
