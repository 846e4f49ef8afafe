"""What must hold of a sealed generation before anyone reads it: it is held against its files, its model and its rows.

Shapes: R query rows, T tasks they belong to, W width of an embedding.
"""

import logging
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from limaml import storage
from limaml.config import Application
from limaml.data.batches import TaskBatch
from limaml.data.tasks import TaskSet
from limaml.errors import GateRefused, StoreError
from limaml.manifest import Manifest, find_manifest, fingerprint
from limaml.model import Model, load_model
from limaml.online.canary import CANARY_MISMATCH, CANARY_TASKS, Canary, compare_with_store, scores_as_served
from limaml.online.merge import sample
from limaml.online.overlay import open_generation
from limaml.online.push import computed_at, removed_keys, shard_uris
from limaml.online.records import embedding_matrix
from limaml.online.store import Generation, Reader, Release, Store
from limaml.schema import AS_OF, TASK_ID

log = logging.getLogger(__name__)

Verified = dict[str, int | float | str]  # as `Release.verified`

SAMPLE_ROWS = 1000
# A day's median norm moves by a few per cent; a model read in the wrong unit or a collapsed one moves it by far more.
NORM_FACTOR = 3.0
HELD_OUT_ROWS = 20_000
# Held-out scores may not be worse than un-adapted ones by more than a hundredth, beyond what chance explains.
HELD_OUT_LOSS = 0.01
HELD_OUT_DEVIATIONS = 4.0


@dataclass(frozen=True)
class Candidate:
    """A sealed generation that is about to be released, and what it was made from."""

    store: Store
    sealed: Generation
    embeddings: str
    manifest: Manifest
    application: Application
    cutoff: datetime
    serving: Release | None


def verify(candidate: Candidate) -> Verified:
    """Everything that is checked before the flip, as figures for the release's record.

    Sums and counts, a sample read back (also of what changed and of what was removed, for an overlay), norms; where the
    task set is still there, embeddings of its first tasks made anew with the released model (the canary) and its query
    rows scored as they will be served.

    Raises:
        StoreError: the store does not hold what was published, or returns it under other keys.
        GateRefused: the stored embeddings score its query rows clearly worse than no adaptation at all.
        DataError, IntegrityError, ConfigError: the model or the task set can't be used.
    """
    store, sealed = candidate.store, candidate.sealed
    store.audit(sealed.name)
    _check_count(candidate)
    with closing(open_generation(store, sealed.name)) as reader:
        figures: Verified = {"tasks": sealed.tasks, "records": sealed.rows, **_read_back(candidate, reader)}
        figures |= _against_model(candidate, reader)
    return figures


def _check_count(candidate: Candidate) -> None:
    store, sealed, manifest = candidate.store, candidate.sealed, candidate.manifest
    with closing(store.open(sealed.name)) as layer:
        held = layer.count()
    if held != sealed.rows or held != sum(chunk.rows for chunk in sealed.chunks):
        raise StoreError(f"{store.url}: {sealed.name} holds {held} records, its seal says {sealed.rows}")
    tasks = held
    if sealed.base:
        base = store.sealed(sealed.base)
        tasks = (base.tasks if base else 0) + _growth(candidate)
    if tasks != manifest.counts["tasks"]:
        raise StoreError(
            f"{store.url}: {sealed.name} holds {tasks:,} tasks, {manifest.counts['tasks']:,} are due; "
            "nothing was released: publish again"
        )


def _growth(candidate: Candidate) -> int:
    """How many more tasks an overlay shows than its base: those it adds, less those it removes."""
    added = removed = 0
    with closing(open_generation(candidate.store, candidate.sealed.base)) as base:
        for uri in shard_uris(candidate.embeddings, candidate.manifest):
            fs, path = storage.filesystem(uri)
            with storage.storage_errors(uri, "read"), pq.ParquetFile(fs.open_input_file(path)) as file:
                for batch in file.iter_batches(1 << 16, columns=[TASK_ID, AS_OF]):
                    changed = computed_at(pa.Table.from_batches([batch]), candidate.cutoff)
                    added += int((~base.get(changed[TASK_ID].to_pylist()).found).sum())
        gone = [key.decode() for key in removed_keys(candidate.embeddings, candidate.manifest)]
        for start in range(0, len(gone), 1 << 16):
            removed += int(base.get(gone[start : start + (1 << 16)]).found.sum())
    return added - removed


def _read_back(candidate: Candidate, reader: Reader) -> Verified:
    sealed, url = candidate.sealed, candidate.store.url
    uris = shard_uris(candidate.embeddings, candidate.manifest)
    table = sample(uris, SAMPLE_ROWS)
    if sealed.base:
        table = pa.concat_tables([table, computed_at(sample(uris, 20 * SAMPLE_ROWS), candidate.cutoff)[:SAMPLE_ROWS]])
        gone = [key.decode() for key in removed_keys(candidate.embeddings, candidate.manifest)[:SAMPLE_ROWS]]
        left = int(reader.get(gone).found.sum()) if gone else 0
        if left:
            raise StoreError(
                f"{url}: {sealed.name} still returns {left} of {len(gone)} sampled tasks that were removed"
            )
    found = reader.get(table[TASK_ID].to_pylist())
    kept = embedding_matrix(table, sealed.width).astype(sealed.dtype).astype(np.float32)
    different = np.flatnonzero(~(found.found & (found.embedding == kept).all(axis=1)))
    if len(different):
        raise StoreError(
            f"{url}: {sealed.name} reads back something else for {len(different)} of {len(table)} sampled "
            "tasks; nothing was released: publish again"
        )
    norm = float(np.median(np.linalg.norm(found.embedding, axis=1)))
    if not np.linalg.norm(found.embedding, axis=1).any():
        raise StoreError(f"{url}: all {len(table)} sampled embeddings are zero; check the model")
    serving = candidate.serving
    before = serving.verified.get("median_norm") if serving and serving.model_version == sealed.model_version else None
    if isinstance(before, float) and before > 0 and not before / NORM_FACTOR <= norm <= before * NORM_FACTOR:
        raise StoreError(
            f"{url}: the median norm of sampled embeddings is {norm:.3g}, of the release before it {before:.3g}, by "
            "the same model; check the features of the newest interactions, then generate and publish again"
        )
    return {"sampled": len(table), "median_norm": norm}


def _against_model(candidate: Candidate, reader: Reader) -> Verified:
    tasks, reason = _task_set(candidate.manifest)
    if tasks is None:
        log.warning("publish: no canary and no held-out scores: %s", reason)
        return {"not_checked": f"canary, held-out scores: {reason}"}
    details = candidate.manifest.details
    model = load_model(details["model_uri"], candidate.application)
    canaries = []
    for number, name in enumerate(candidate.application.definition_names):
        batch = _first_tasks(tasks.of(name))
        canaries.append(
            compare_with_store(model, batch, reader, details["finetune_steps"], details["pooling"], number, name)
        )
    figures = _judged(canaries, candidate)
    return figures | _held_out(model, tasks, reader, candidate)


def _task_set(manifest: Manifest) -> tuple[TaskSet | None, str]:
    """The task set the embeddings were made from, or why it can't be used."""
    uri = manifest.details.get("tasks_uri", "")
    if not uri:
        return None, "the embeddings don't say which task set they were made from"
    found = find_manifest(uri)
    if found is None:
        return None, f"the task set {uri} is gone"
    if fingerprint(value=found.digest) != manifest.inputs.get("tasks"):
        return None, f"the task set {uri} was made anew since"
    return TaskSet.open(uri, verify=False), ""


def _first_tasks(tasks: TaskSet) -> TaskBatch:
    """The first tasks with support rows; files are in hash order, so they are a random sample."""
    taken: list[TaskBatch] = []
    for batch in tasks.batches(CANARY_TASKS):
        taken.append(batch.support_only())
        if sum(each.tasks for each in taken) >= CANARY_TASKS:
            break
    return TaskBatch.concatenate(taken)


def _judged(canaries: list[Canary], candidate: Candidate) -> Verified:
    url, name = candidate.store.url, candidate.sealed.name
    tasks, missing = sum(each.tasks for each in canaries), sum(each.missing for each in canaries)
    wrong = sum(each.mismatches for each in canaries)
    expected = tasks + missing
    if tasks < candidate.application.store.minimum_coverage * expected:
        raise StoreError(
            f"{url}: {name} covers {tasks} of {expected} sampled tasks of the task set, less than "
            f"store.minimum_coverage {candidate.application.store.minimum_coverage}: generate and publish again"
        )
    if wrong > CANARY_MISMATCH * tasks:
        raise StoreError(
            f"{url}: {name} returns something else for {wrong} of {tasks} tasks than the released model makes of their "
            "rows: embeddings under wrong keys, or of another model; generate and publish again"
        )
    return {
        "canary_tasks": tasks,
        "canary_missing": missing,
        "canary_mismatches": wrong,
        "canary_largest_error": max((each.largest_error for each in canaries), default=0.0),
    }


def _held_out(model: Model, tasks: TaskSet, reader: Reader, candidate: Candidate) -> Verified:
    """Query rows, which no embedding has seen, scored as they will be served and without any adaptation."""
    label, task, stored, unadapted, seen = [], [], [], [], 0
    for batch in tasks.batches(CANARY_TASKS) if tasks.counts.get("query_rows") else ():
        query = batch.is_query
        scores = scores_as_served(model, batch, reader)
        label.append(batch.label[query])
        task.append(batch.task_of_row[query] + seen)
        stored.append(scores[0][query])
        unadapted.append(scores[1][query])
        seen += batch.tasks
        if sum(map(len, label)) >= HELD_OUT_ROWS:
            break
    if not sum(map(len, label)):
        return {"held_out_rows": 0}
    losses = [_log_loss(np.concatenate(label), np.concatenate(score)) for score in (stored, unadapted)]
    with_stored, without = (float(loss.mean()) for loss in losses)
    worse, deviation = _difference(losses[0] - losses[1], np.concatenate(task))
    if worse - HELD_OUT_DEVIATIONS * deviation > HELD_OUT_LOSS * without:
        raise GateRefused(
            f"{candidate.sealed.name}: with its embeddings, {len(losses[0]):,} held-out rows have a log loss of "
            f"{with_stored:.4f}, without any adaptation {without:.4f}; the current release stays. "
            "Look at the newest interactions' features and labels, then generate and publish again"
        )
    return {
        "held_out_rows": len(losses[0]),
        "held_out_log_loss": with_stored,
        "held_out_log_loss_unadapted": without,
    }


def _log_loss(label: npt.NDArray[np.float32], score: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """[R] cross-entropy in nats."""
    probability = np.clip(score.astype(np.float64), 1e-7, 1 - 1e-7)
    return -np.where(label > 0, np.log(probability), np.log1p(-probability))


def _difference(difference: npt.NDArray[np.float64], task: npt.NDArray[np.int64]) -> tuple[float, float]:
    """Mean over rows, and its standard deviation: rows of one task are no independent witnesses."""
    mean = float(difference.mean())
    _, place = np.unique(task, return_inverse=True)
    of_task = np.bincount(place, difference - mean)
    return mean, float(np.sqrt((of_task**2).sum()) / len(difference))
