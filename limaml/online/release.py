"""Publishing: embeddings on disk become the release that scoring reads, or nothing changes.

begin → write chunks → seal (counts, sums) → verify (read back) → flip (compare-and-set) → keep some → gc.
Killed anywhere, a publish leaves the old release serving, and the next one goes on from where it stopped.
"""

import logging
from datetime import UTC, date, datetime

import numpy as np

from limaml.config import Application
from limaml.console import progress
from limaml.data.embedding_files import shard_entries
from limaml.errors import DataError, GateRefused, StoreError
from limaml.manifest import Manifest, file_uri, fingerprint, read_manifest, verify_files
from limaml.online.merge import merged, sample
from limaml.online.records import embedding_matrix, encode
from limaml.online.store import Generation, Release, Store, open_store
from limaml.schema import MODEL_VERSION, TASK_ID
from limaml.windows import day_start

log = logging.getLogger(__name__)

BUFFER_ROWS = 16_384
SAMPLE_ROWS = 1000


def publish(embeddings: str, store_url: str, application: Application, decision: str | None = None) -> Release:
    """Make embeddings the current release, together with the model that made them.

    With a `decision`, the gate must have promoted this very pair. Without one it is a daily refresh: the current
    release must come from the same model. Publishing what is current already changes nothing.

    Raises:
        GateRefused: the decision did not promote.
        StoreError: the pair is not the one decided on, another model is current, or the store fails or differs.
        ReleaseConflict: another release was made meanwhile.
        IntegrityError: an embedding file differs from its manifest.
        DataError: the embeddings are of another application, empty, unordered or can't be stored.
    """
    manifest = read_manifest(embeddings, "embeddings")
    if manifest.application != application.name:
        raise DataError(f"{embeddings}: embeddings of {manifest.application!r}, not of {application.name!r}")
    store = open_store(store_url, application.name)
    serving = store.current()
    plan = _plan(manifest, application)
    _permit(manifest, embeddings, decision, serving)
    if serving is not None and serving.generation == plan.name:
        log.info("publish: release %d already holds generation %s", serving.number, plan.name)
        return serving
    if serving is not None and serving.model_version == plan.model_version and serving.as_of > plan.as_of:
        # A late rerun of an earlier day must not take today's embeddings away.
        log.warning("publish: kept release %d of %s, newer than %s", serving.number, serving.as_of, plan.as_of)
        return serving
    if serving is not None and any(past.generation == plan.name for past in store.releases()):
        # A rerun of a training run whose model was replaced or rolled back since must not bring it back.
        log.warning("publish: kept release %d, which came after generation %s", serving.number, plan.name)
        return serving
    verify_files(embeddings, manifest)
    uris = [file_uri(embeddings, entry) for entry in shard_entries(manifest)]
    sealed = store.sealed(plan.name) or _write(store, plan, uris)
    try:
        _verify(store, sealed, manifest, uris, application)
    except StoreError:
        store.discard(plan.name)
        raise
    release = _release(sealed, manifest, application, serving)
    store.flip(release)
    log.info("publish: release %d is %s (%s tasks)", release.number, plan.name, f"{release.tasks:,}")
    collect_garbage(store, application.store.keep_generations)
    return release


def current(store_url: str, application: Application) -> Release:
    """The release that is being served.

    Raises:
        StoreError: nothing was published yet, or the store can't be read.
    """
    release = open_store(store_url, application.name).current()
    if release is None:
        raise StoreError(f"{store_url}: no release of {application.name} yet; a promoted training run publishes one")
    return release


def rollback(store: Store) -> Release:
    """Return to the release before the current one, model and embeddings at once; again, and it goes further back.

    Raises:
        StoreError: there is no earlier release, or its generation is gone.
        ReleaseConflict: another release was made meanwhile.
    """
    serving = store.current()
    if serving is None:
        raise StoreError(f"{store.url}: nothing was published yet, so there is nothing to roll back")
    target = next((each for each in store.releases() if each.number == serving.previous), None)
    if target is None:
        raise StoreError(f"{store.url}: release {serving.number} has no release before it to roll back to")
    if store.sealed(target.generation) is None:
        raise StoreError(
            f"{store.url}: generation {target.generation} of release {target.number} was collected; "
            "raise store.keep_generations to be able to go back further next time"
        )
    restored = target.model_copy(
        update={"number": serving.number + 1, "rollback_from": serving.number, "published_at": datetime.now(UTC)}
    )
    store.flip(restored)
    log.warning("rollback: release %d is %s again", restored.number, restored.generation)
    return restored


def collect_garbage(store: Store, keep: int) -> list[str]:
    """Delete all generations but the `keep` that the current release and rollbacks from it would read."""
    releases = {release.number: release for release in store.releases()}
    kept: list[str] = []
    at = store.current()
    while at is not None and len(kept) < keep:
        if at.generation not in kept:
            kept.append(at.generation)
        at = releases.get(at.previous) if at.previous is not None else None
    gone = [name for name in store.generations() if name not in kept and store.discard(name)]
    if gone:
        log.info("gc: deleted %s, kept %s", ", ".join(gone), ", ".join(kept))
    return gone


def _plan(manifest: Manifest, application: Application) -> Generation:
    details = manifest.details
    if manifest.counts["tasks"] == 0:
        raise DataError(f"embeddings of {details[MODEL_VERSION]} as of {details['as_of']}: no task in them to publish")
    as_of = date.fromisoformat(details["as_of"])
    dtype = application.store.dtype
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
    )


def _permit(manifest: Manifest, embeddings: str, decision: str | None, current: Release | None) -> None:
    version = manifest.details[MODEL_VERSION]
    if decision is None:
        if current is None:
            raise StoreError(f"{embeddings}: a first release needs the gate's decision on model {version}")
        if current.model_version != version:
            raise StoreError(
                f"{embeddings}: made by model {version}, but release {current.number} serves model "
                f"{current.model_version}; a refresh keeps the model: generate with that one, or publish a decision"
            )
        return
    verdict = read_manifest(decision, "decision").details
    if not verdict["promoted"]:
        raise GateRefused(f"{decision}: the gate did not promote model {version}: {'; '.join(verdict['reasons'])}")
    if verdict["embeddings_digest"] != manifest.digest:
        raise StoreError(
            f"{decision}: promotes model {verdict[MODEL_VERSION]} with embeddings "
            f"{verdict['embeddings_digest'][:12]}…, but {embeddings} is {manifest.digest[:12]}… of model {version}; "
            "publish the pair that was judged"
        )


def _write(store: Store, plan: Generation, uris: list[str]) -> Generation:
    with store.begin(plan) as writer, progress() as bar:
        shown = bar.add_task("publish", total=plan.tasks, note="")
        for index, table in enumerate(merged(uris, plan.buffer_rows)):
            for version in table[MODEL_VERSION].unique().to_pylist():
                if version != plan.model_version:
                    raise DataError(f"embeddings name model {version}, their manifest {plan.model_version}")
            writer.write(index, *encode(table, plan.width, plan.dtype))
            bar.advance(shown, len(table))
        return writer.seal()


def _verify(store: Store, sealed: Generation, manifest: Manifest, uris: list[str], application: Application) -> None:
    """Read the sealed generation back as scoring will, and hold it against the files it was made from.

    Raises:
        StoreError: it is not what was published.
    """
    expected = manifest.counts["tasks"]
    store.audit(sealed.name)
    reader = store.open(sealed.name)
    try:
        held = reader.count()
        if held != sealed.rows or held != sum(chunk.rows for chunk in sealed.chunks):
            raise StoreError(f"{store.url}: {sealed.name} holds {held} records, its seal says {sealed.rows}")
        if held < application.store.minimum_coverage * expected:
            raise StoreError(
                f"{store.url}: {sealed.name} covers {held} of {expected} tasks, less than store.minimum_coverage "
                f"{application.store.minimum_coverage}"
            )
        table = sample(uris, SAMPLE_ROWS)
        found = reader.get(table[TASK_ID].to_pylist())
    finally:
        reader.close()
    kept = embedding_matrix(table, sealed.width).astype(sealed.dtype).astype(np.float32)
    different = np.flatnonzero(~(found.found & (found.embedding == kept).all(axis=1)))
    if len(different):
        raise StoreError(
            f"{store.url}: {sealed.name} reads back something else for {len(different)} of {len(table)} sampled "
            "tasks; nothing was released: publish again"
        )
    if not np.linalg.norm(found.embedding, axis=1).any():
        raise StoreError(f"{store.url}: all {len(table)} sampled embeddings are zero; check the model")


def _release(sealed: Generation, manifest: Manifest, application: Application, current: Release | None) -> Release:
    return Release(
        number=current.number + 1 if current else 1,
        application=application.name,
        model_version=sealed.model_version,
        model_uri=manifest.details["model_uri"],
        model_digest=manifest.details["model_digest"],
        generation=sealed.name,
        as_of=sealed.as_of,
        cutoff=day_start(sealed.as_of, application.windows.utc_offset_hours),
        newest_event_time=sealed.newest_event_time,
        tasks=sealed.tasks,
        width=sealed.width,
        dtype=sealed.dtype,
        embeddings_digest=sealed.embeddings_digest,
        previous=current.number if current else None,
    )
