"""Embedding generation divided between machines: each writes some shards, one puts them together.

What comes out is what one machine alone would have written, to the byte: a shard depends on its tasks, the model and
the day before alone, and the manifest sums up what each shard says of itself.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from limaml import storage
from limaml.data.tasks import TaskSet
from limaml.errors import DataError
from limaml.manifest import FileEntry, Manifest, file_entry, file_uri, read_manifest, verify_file
from limaml.online.embeddings import Plan, embeddings_manifest, shard_figures, write_shards
from limaml.online.previous import write_removed
from limaml.schema import REMOVED, TASK_ID
from limaml.stage import Parts, Stage, entries

KIND = "embeddings_part"


def divide(tasks: str, definitions: Sequence[str], parts: int) -> list[list[str]]:
    """Ranges of a task set's shards, in their order, of about as many rows each; at most `parts`, none empty.

    Args:
        tasks: URI of the task set.
        definitions: names of the task definitions; the first one's is empty.
        parts: how many machines there are.
    """
    task_set = TaskSet.open(tasks, verify=False)
    shards = [entry for name in definitions for entry in task_set.of(name).files]
    total = sum(entry.rows or 0 for entry in shards)
    ranges: list[list[str]] = [[] for _ in range(min(parts, len(shards)))]
    before = 0
    for entry in shards:
        middle = before + (entry.rows or 0) / 2
        ranges[min(int(middle * len(ranges) / max(total, 1)), len(ranges) - 1)].append(entry.path)
        before += entry.rows or 0
    return [each for each in ranges if each]


def generate_part(plan: Plan, shards: Sequence[str]) -> str:
    """Generate some shards into a place of their own, beside the output, and return its URI; the output's where that is
    finished, and nothing is to be done.

    Args:
        plan: of the whole, made without looking at the task set's files: those of these shards are checked here.
        shards: paths of theirs in the task set.

    Raises:
        DataError: as `generate_embeddings`.
        IntegrityError: a shard of the task set is not the one its manifest names.
    """
    if plan.stage.finished() is not None:
        return plan.stage.output
    for entry in plan.shards:
        if entry.path in shards:
            verify_file(plan.task_set.uri, entry)
    name = shards[0].removesuffix(".parquet").replace("/", "_")
    inputs = {"embeddings": plan.stage.fingerprint, "previous": plan.previous_digest, "shards": list(shards)}
    stage = Stage(KIND, storage.join(plan.stage.parts_uri, name), plan.application, (), inputs)

    def build(directory: Path) -> Manifest:
        earlier = plan.earlier(shards)
        paths = write_shards(plan, directory, earlier, shards)
        figures = {path: shard_figures(directory / path, plan.cutoff) for path in paths}
        if earlier is not None:
            write_removed(earlier.removed(directory, paths), directory / REMOVED)
        files = entries(directory, {path: each["tasks"] for path, each in figures.items()}, "*.parquet")
        carried = earlier.manifest.digest if earlier else ""
        return stage.manifest(files, {}, {"figures": figures, "carried_from": carried})

    stage.run(build, resumable=True)
    return stage.output


def join_parts(plan: Plan, parts: Sequence[str]) -> Manifest:
    """Put the parts together; returns the manifest that `generate_embeddings` would have.

    Args:
        plan: of the whole.
        parts: URIs of all parts.

    Raises:
        DataError: a shard is missing or there twice, parts were not carried over from the same embeddings, or no task
            has a support row.
    """
    return plan.stage.assemble(lambda place: _joined(plan, place, parts))


def _joined(plan: Plan, place: Parts, parts: Sequence[str]) -> Manifest:
    found: dict[str, tuple[FileEntry, dict[str, int]]] = {}
    gone: list[pa.Table] = []
    earlier = plan.earlier(())
    for uri in dict.fromkeys(parts):
        part = read_manifest(uri, KIND)
        if part.details["carried_from"] != (earlier.manifest.digest if earlier else ""):
            raise DataError(f"{uri}: was carried over from other embeddings than the rest; run the whole step again")
        for entry in part.files:
            if entry.path == REMOVED:
                fs, path = storage.filesystem(file_uri(uri, entry))
                with storage.storage_errors(path, "read"):
                    gone.append(pq.read_table(path, filesystem=fs))
                continue
            if entry.path in found:
                raise DataError(f"{uri}: {entry.path} is in another part, too; run the whole step again")
            place.sources[entry.path] = file_uri(uri, entry)
            found[entry.path] = entry, part.details["figures"][entry.path]
    if missing := [entry.path for entry in plan.shards if entry.path not in found]:
        raise DataError(f"{plan.stage.output}: no part has {', '.join(missing[:3])}; run the whole step again")
    files = [entry for entry, _ in found.values()]
    if earlier is not None:
        files.append(_put_removed(place, pa.concat_tables(gone).sort_by(TASK_ID)))
    figures = [each for _, each in found.values()]
    return embeddings_manifest(plan, sorted(files, key=lambda entry: entry.path.split("/")), figures, earlier)


def _put_removed(place: Parts, removed: pa.Table) -> FileEntry:
    with tempfile.TemporaryDirectory(prefix="limaml-join-") as folder:
        path = Path(folder) / REMOVED
        write_removed(removed, path)
        entry = file_entry(path, Path(folder), len(removed))
        place.sources[REMOVED] = storage.join(place.uri, REMOVED)
        storage.put(path, place.sources[REMOVED])
    return entry
