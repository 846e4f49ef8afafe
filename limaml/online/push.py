"""Embeddings on disk become a sealed generation: whole, or as an overlay of what changed since the release below it.

Killed anywhere, the next push of the same embeddings goes on after the last chunk that was written.
"""

import logging
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date, datetime

import pyarrow as pa
import pyarrow.parquet as pq

from limaml import storage
from limaml.config import Application
from limaml.console import progress
from limaml.data.embedding_files import shard_entries
from limaml.errors import DataError, StoreError
from limaml.failpoints import failpoint
from limaml.manifest import Manifest, file_uri, fingerprint
from limaml.online.merge import ahead, merged
from limaml.online.overlay import chain
from limaml.online.records import TOMBSTONE, encode, encode_key
from limaml.online.store import Generation, Release, Store
from limaml.schema import AS_OF, MODEL_VERSION, REMOVED, TASK_ID, TIMESTAMP
from limaml.windows import day_start

log = logging.getLogger(__name__)

BUFFER_ROWS = 16_384
_FEWEST_ROWS = 256  # of a shard at once


def plan_generation(manifest: Manifest, application: Application, store: Store, serving: Release | None) -> Generation:
    """The generation that embeddings become; over the release that is served where they were carried over from its.

    Raises:
        DataError: there are no tasks in them.
    """
    details = manifest.details
    if manifest.counts["tasks"] == 0:
        raise DataError(f"embeddings of {details[MODEL_VERSION]} as of {details['as_of']}: no task in them to publish")
    as_of = date.fromisoformat(details["as_of"])
    dtype = application.store.dtype
    # The base is no part of it: the same embeddings read the same, whether they are stored whole or as an overlay.
    identity = fingerprint(model=details[MODEL_VERSION], as_of=as_of, embeddings=manifest.digest, dtype=dtype)
    return Generation(
        name=f"{as_of:%Y%m%d}-{identity[:12]}",
        application=application.name,
        model_version=details[MODEL_VERSION],
        embeddings_digest=manifest.digest,
        as_of=as_of,
        newest_event_time=details["newest_event_time"],
        tasks=manifest.counts["tasks"],
        width=details["width"],
        dtype=dtype,
        buffer_rows=BUFFER_ROWS,
        base=_base(manifest, application, store, serving),
    )


def _base(manifest: Manifest, application: Application, store: Store, serving: Release | None) -> str:
    """The served generation, where the embeddings are a delta of it and it has few layers; else nothing."""
    made = manifest.details
    if serving is None or made.get("previous_digest") != serving.embeddings_digest:
        return ""
    wanted = (made["model_digest"], made["width"], application.store.dtype)
    if wanted != (serving.model_digest, serving.width, serving.dtype):
        return ""
    try:
        layers = len(chain(store, serving.generation))
    except StoreError as error:
        log.warning("publish: written whole, since what is served can't be built upon: %s", error)
        return ""
    return serving.generation if layers <= application.store.maximum_overlays else ""


def push(
    store: Store, plan: Generation, embeddings: str, manifest: Manifest, cutoff: datetime, together: bool = False
) -> Generation:
    """Write the planned generation and seal it, or go on with what a killed push left of it, or others wrote of it.

    Args:
        store: where to.
        plan: what to write; with a base, only rows computed at `cutoff` and tombstones of removed tasks.
        embeddings: URI of the directory.
        manifest: of the directory.
        cutoff: the instant the embeddings' day begins, which is the `as_of` of the rows computed for it.
        together: other processes were let write parts of it, and have ended.

    Raises:
        StoreError: the store can't be written.
        DataError: the embeddings are of another model, unordered or can't be stored.
    """
    sealed = store.sealed(plan.name)
    if sealed is not None and sealed.base in ("", plan.base):
        return sealed
    if sealed is not None and not store.discard(plan.name):
        raise StoreError(f"{store.url}: another process is writing {plan.name}; wait for it to end")
    uris = shard_uris(embeddings, manifest)
    tombstones = removed_keys(embeddings, manifest) if plan.base else []
    due = manifest.details["changed"] + len(tombstones) if plan.base else plan.tasks
    with store.begin(plan, together) as writer, progress() as bar:
        failpoint("publish.begun")
        shown = bar.add_task("publish", total=due, note="")
        for index, rows in enumerate(_chunks(plan, uris, tombstones, cutoff)):
            keys, values = rows.encoded(plan)
            writer.write(index, keys, values)
            failpoint("publish.chunk")
            bar.advance(shown, len(keys))
        sealed = writer.seal()
    failpoint("publish.sealed")
    if sealed.rows != due:
        store.discard(plan.name)
        raise DataError(
            f"{embeddings}: {sealed.rows:,} records were written where its manifest says {due:,}; "
            "run the stage that writes them again"
        )
    return sealed


def push_part(
    store: Store, plan: Generation, embeddings: str, manifest: Manifest, cutoff: datetime, number: int, parts: int
) -> int:
    """Write part `number` of `parts` of a generation that was begun, beside others that do; how many rows it has.

    Every part reads all rows, since where a chunk ends depends on those before it, and encodes and writes every
    `parts`-th chunk. Where the generation was collected meanwhile nothing is written: `push` writes what is missing.
    """
    if plan.name not in store.generations() or store.sealed(plan.name) is not None:
        return 0
    tombstones = removed_keys(embeddings, manifest) if plan.base else []
    written = 0
    with store.begin(plan, together=True) as writer:
        for index, rows in enumerate(_chunks(plan, shard_uris(embeddings, manifest), tombstones, cutoff)):
            if index % parts == number:
                keys, values = rows.encoded(plan)
                writer.write(index, keys, values)
                written += len(keys)
    return written


def shard_uris(embeddings: str, manifest: Manifest) -> list[str]:
    """Where the shards of embeddings lie."""
    return [file_uri(embeddings, entry) for entry in shard_entries(manifest)]


def removed_keys(embeddings: str, manifest: Manifest) -> list[bytes]:
    """Keys of the tasks that the embeddings before these had and these have not, in order."""
    uris = [file_uri(embeddings, entry) for entry in manifest.files if entry.path == REMOVED]
    keys: list[bytes] = []
    for uri in uris:
        fs, path = storage.filesystem(uri)
        with storage.storage_errors(uri, "read"):
            keys += [encode_key(each) for each in pq.read_table(path, filesystem=fs)[TASK_ID].to_pylist()]
    return sorted(keys)


def computed_at(table: pa.Table, cutoff: datetime) -> pa.Table:
    """The rows that were computed for the day that begins at `cutoff`, not carried over from an earlier one."""
    instant = pa.scalar(cutoff, TIMESTAMP).cast(pa.int64()).as_py()
    return table.filter(pa.array(table[AS_OF].cast(TIMESTAMP).cast(pa.int64()).to_numpy() == instant))


@dataclass
class _Rows:
    """A chunk's rows, before they are encoded: tables and tombstones in key order."""

    tables: list[pa.Table] = field(default_factory=list)
    tombstones: list[list[bytes]] = field(default_factory=list)
    count: int = 0

    def add(self, table: pa.Table, tombstones: list[bytes]) -> None:
        self.tables.append(table)
        self.tombstones.append(tombstones)
        self.count += len(table) + len(tombstones)

    def encoded(self, plan: Generation) -> tuple[list[bytes], list[bytes]]:
        """Keys, and values beside them."""
        keys: list[bytes] = []
        values: list[bytes] = []
        for table, tombstones in zip(self.tables, self.tombstones, strict=True):
            more = encode(table, plan.width, plan.dtype)
            if tombstones:
                more = _with_tombstones(*more, tombstones)
            keys += more[0]
            values += more[1]
        return keys, values


def _chunks(plan: Generation, uris: list[str], tombstones: list[bytes], cutoff: datetime) -> Iterator[_Rows]:
    """Rows in key order, cut where at least `buffer_rows` are together."""
    chunk = _Rows()
    placed = 0
    # So many of all shards together, however many there are: memory stays the same.
    rows = max(min(_FEWEST_ROWS, plan.buffer_rows), 2 * plan.buffer_rows // len(uris))
    for table in ahead(merged(uris, rows)):
        _check_model(table, plan)
        last = encode_key(table[TASK_ID][-1].as_py())
        if plan.base:
            table = computed_at(table, cutoff)
        until = bisect_right(tombstones, last)
        chunk.add(table, tombstones[placed:until])
        placed = max(placed, until)
        if chunk.count >= plan.buffer_rows:
            yield chunk
            chunk = _Rows()
        schema = table.schema
    if placed < len(tombstones):
        chunk.add(schema.empty_table(), tombstones[placed:])
    if chunk.count:
        yield chunk


def _check_model(table: pa.Table, plan: Generation) -> None:
    for version in table[MODEL_VERSION].unique().to_pylist():
        if version != plan.model_version:
            raise DataError(f"embeddings name model {version}, their manifest {plan.model_version}")


def _with_tombstones(
    keys: list[bytes], values: list[bytes], tombstones: list[bytes]
) -> tuple[list[bytes], list[bytes]]:
    rows = sorted([*zip(keys, values, strict=True), *((key, TOMBSTONE) for key in tombstones)])
    return [key for key, _ in rows], [value for _, value in rows]


def cutoff_of(plan: Generation, application: Application) -> datetime:
    """The instant a generation's day begins, UTC."""
    return day_start(plan.as_of, application.windows.utc_offset_hours)
