"""Publishing: embeddings on disk become the release that scoring reads, or nothing changes.

begin → write chunks → seal (counts, sums) → verify → flip (compare-and-set) → gc.
Killed anywhere, a publish leaves the old release serving, and the next one goes on from where it stopped.
A rollback sets a hold, which lies in the release itself: nothing newer is published until somebody ends it.
"""

import logging
from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from typing import Any

from limaml.config import Application
from limaml.errors import DataError, GateRefused, NoRelease, ReleaseHeld, StoreError
from limaml.failpoints import failpoint
from limaml.manifest import Manifest, read_manifest, verify_files
from limaml.online.overlay import chain
from limaml.online.push import cutoff_of, plan_generation, push
from limaml.online.store import Generation, Release, Store, open_store
from limaml.schema import MODEL_VERSION

log = logging.getLogger(__name__)


def publish(
    embeddings: str, store_url: str, application: Application, decision: str | None = None, together: bool = False
) -> Release:
    """Make embeddings the current release, together with the model that made them.

    With a `decision`, the gate must have promoted this very pair. Without one it is a daily refresh: the current
    release must come from the same model. Publishing what is current already changes nothing. Embeddings that were
    carried over from the current release's are stored as an overlay on it. `together` says that others were let write
    parts of it (`plan_parts`), and have ended: what they wrote is checked, what they did not is written.

    Raises:
        GateRefused: the decision did not promote, or the stored embeddings score worse than none.
        ReleaseHeld: the current release is held.
        StoreError: the pair is not the one decided on, another model is current, or the store fails or differs.
        ReleaseConflict: another release was made meanwhile.
        IntegrityError: an embedding file differs from its manifest.
        DataError: the embeddings are of another application, empty, unordered or can't be stored.
    """
    # It needs the model, and torch takes seconds to import: a rollback should not wait for it.
    from limaml.online.verify import Candidate, verify

    begun = _begin(embeddings, store_url, application, decision)
    if isinstance(begun, Release):
        return begun
    store, manifest, plan, serving = begun
    verify_files(embeddings, manifest)
    failpoint("publish.planned")
    cutoff = cutoff_of(plan, application)
    sealed = push(store, plan, embeddings, manifest, cutoff, together)
    try:
        verified = verify(Candidate(store, sealed, embeddings, manifest, application, cutoff, serving))
    except (StoreError, GateRefused):
        store.discard(plan.name)
        raise
    failpoint("publish.verified")
    release = _release(sealed, manifest, cutoff, serving, verified)
    store.flip(release)
    failpoint("publish.flipped")
    how = f"over {sealed.base}" if sealed.base else "complete"
    log.info("publish: release %d is %s, %s (%s tasks)", release.number, plan.name, how, f"{release.tasks:,}")
    collect_unneeded(store, application)
    return release


def plan_parts(
    embeddings: str, store_url: str, application: Application, decision: str | None = None
) -> Generation | None:
    """Begin the generation that `publish` will make of embeddings, so that others write parts of it (`push_part`).

    None where there is nothing to divide: a later release serves, it is sealed already, or the store takes one writer.

    Raises:
        As `publish` does before it writes anything.
    """
    begun = _begin(embeddings, store_url, application, decision)
    if isinstance(begun, Release):
        return None
    store, _, plan, _ = begun
    if not store.takes_several_writers or store.sealed(plan.name) is not None:
        log.info("publish: written by one process: %s", "sealed" if store.takes_several_writers else "the store's way")
        return None
    with store.begin(plan, together=True):
        return plan


def _begin(
    embeddings: str, store_url: str, application: Application, decision: str | None
) -> Release | tuple[Store, Manifest, Generation, Release | None]:
    """What is to be published, and over what; the release that serves where there is nothing to do."""
    manifest = read_manifest(embeddings, "embeddings")
    if manifest.application != application.name:
        raise DataError(f"{embeddings}: embeddings of {manifest.application!r}, not of {application.name!r}")
    store = open_store(store_url, application.name)
    if decision is not None:
        _check_decision(manifest, embeddings, decision)
    serving = store.current()
    plan = plan_generation(manifest, application, store, serving)
    if serving is not None and _is_superseded(plan, serving, store):
        return serving
    if serving is not None and serving.held:
        raise ReleaseHeld(
            f"release {serving.number} ({serving.generation}) is held: {serving.held}. Nothing newer is published "
            "until `limaml release hold --off`; look at `limaml release show` first"
        )
    if decision is None:
        _check_refresh(manifest, embeddings, serving)
    return store, manifest, plan, serving


def current(store_url: str, application: Application) -> Release:
    """The release that is being served.

    Raises:
        NoRelease: nothing was published yet.
        StoreError: the store can't be read.
    """
    release = open_store(store_url, application.name).current()
    if release is None:
        raise NoRelease(f"{store_url}: no release of {application.name} yet; a promoted training run publishes one")
    return release


def rollback(store: Store, reason: str = "", to: int | None = None) -> Release:
    """Return to the release before the current one, model and embeddings at once; again, and it goes further back.

    The release is held from then on, so that the next scheduled publish does not undo it. With the number of a release,
    return to that one's pair, also where it is one that was rolled back by mistake; where it is current, do nothing.

    Raises:
        StoreError: there is no such release, or its generation is gone.
        ReleaseConflict: another release was made meanwhile.
    """
    serving = store.current()
    if serving is None:
        raise StoreError(f"{store.url}: nothing was published yet, so there is nothing to roll back")
    wanted = serving.previous if to is None else to
    target = next((each for each in store.releases() if each.number == wanted), None)
    if target is None:
        missing = f"release {serving.number} has no release before it" if to is None else f"there is no release {to}"
        raise StoreError(f"{store.url}: {missing} to roll back to; look at `limaml release list`")
    if to is not None and target.generation == serving.generation:
        log.info("rollback: release %d already is %s", serving.number, serving.generation)
        return serving
    if store.sealed(target.generation) is None:
        raise StoreError(
            f"{store.url}: generation {target.generation} of release {target.number} was collected; "
            "raise store.keep_generations to be able to go back further next time"
        )
    chain(store, target.generation)
    failpoint("rollback.chosen")
    changes = {
        "number": serving.number + 1,
        "rollback_from": serving.number,
        "held": reason or f"rolled back from release {serving.number}",
        "published_at": datetime.now(UTC),
    }
    restored = target.model_copy(update=changes)
    store.flip(restored)
    failpoint("rollback.flipped")
    log.warning("rollback: release %d is %s again, and held", restored.number, restored.generation)
    return restored


def hold(store: Store, reason: str) -> Release:
    """Keep newer publishes from replacing the current release, or, with an empty reason, let them again.

    It makes a release with the same pair and the next number, so that whoever moves the pointer meanwhile conflicts.

    Raises:
        StoreError: nothing was published yet.
        ReleaseConflict: another release was made meanwhile.
    """
    serving = store.current()
    if serving is None:
        raise StoreError(f"{store.url}: nothing was published yet, so there is nothing to hold")
    if serving.held == reason:
        return serving
    changes = {"number": serving.number + 1, "held": reason, "rollback_from": None, "published_at": datetime.now(UTC)}
    release = serving.model_copy(update=changes)
    failpoint("hold.chosen")
    store.flip(release)
    failpoint("hold.flipped")
    log.warning("hold: release %d is %s", release.number, f"held: {reason}" if reason else "no longer held")
    return release


def collect_unneeded(store: Store, application: Application) -> list[str]:
    """Delete all generations that neither the application's rules keep nor any of its A/B tests reads."""
    rules = application.store
    return collect_garbage(store, rules.keep_generations, rules.keep_days, tested=application.experiment.releases)


def collect_garbage(
    store: Store,
    keep: int,
    keep_days: float = 0.0,
    now: datetime | None = None,
    tested: Collection[int] = (),
) -> list[str]:
    """Delete all generations but those that are still needed.

    Needed are the `keep` that the current release and rollbacks from it would read, those that were current less than
    `keep_days` before `now`, those of the releases with a number in `tested`, and every base that one of these lies on.
    """
    kept = _needed(store, keep, timedelta(days=keep_days), now or datetime.now(UTC), tested)
    failpoint("gc.chosen")
    gone = []
    for name in store.generations():
        if name not in kept and store.discard(name):
            gone.append(name)
            failpoint("gc.discarded")
    if gone:
        log.info("gc: deleted %s, kept %s", ", ".join(gone), ", ".join(kept))
    return gone


def _needed(store: Store, keep: int, age: timedelta, now: datetime, tested: Collection[int]) -> list[str]:
    newest_first = store.releases()
    by_number = {release.number: release for release in newest_first}
    kept: list[str] = []
    at = newest_first[0] if newest_first else None
    while at is not None and len(kept) < keep:
        if at.generation not in kept:
            kept.append(at.generation)
        at = by_number.get(at.previous) if at.previous is not None else None
    retired = now
    for release in newest_first:
        if (now - retired < age or release.number in tested) and release.generation not in kept:
            kept.append(release.generation)
        retired = release.published_at
    for name in kept:
        sealed = store.sealed(name)
        if sealed is not None and sealed.base and sealed.base not in kept:
            kept.append(sealed.base)
    return kept


def _is_superseded(plan: Generation, serving: Release, store: Store) -> bool:
    """Whether there is nothing to publish: it is current, or the current release came after it."""
    if serving.generation == plan.name:
        log.info("publish: release %d already holds generation %s", serving.number, plan.name)
        return True
    if serving.model_version == plan.model_version and serving.as_of > plan.as_of:
        # A late rerun of an earlier day must not take today's embeddings away.
        log.warning("publish: kept release %d of %s, newer than %s", serving.number, serving.as_of, plan.as_of)
        return True
    if any(past.generation == plan.name for past in store.releases()):
        # A rerun of a training run whose model was replaced or rolled back since must not bring it back.
        log.warning("publish: kept release %d, which came after generation %s", serving.number, plan.name)
        return True
    return False


def _check_refresh(manifest: Manifest, embeddings: str, serving: Release | None) -> None:
    version = manifest.details[MODEL_VERSION]
    if serving is None:
        raise StoreError(f"{embeddings}: a first release needs the gate's decision on model {version}")
    if serving.model_version != version:
        raise StoreError(
            f"{embeddings}: made by model {version}, but release {serving.number} serves model "
            f"{serving.model_version}; a refresh keeps the model: generate with that one, or publish a decision"
        )


def _check_decision(manifest: Manifest, embeddings: str, decision: str) -> None:
    version = manifest.details[MODEL_VERSION]
    verdict = read_manifest(decision, "decision").details
    if not verdict["promoted"]:
        raise GateRefused(f"{decision}: the gate did not promote model {version}: {'; '.join(verdict['reasons'])}")
    if verdict["embeddings_digest"] != manifest.digest:
        raise StoreError(
            f"{decision}: promotes model {verdict[MODEL_VERSION]} with embeddings "
            f"{verdict['embeddings_digest'][:12]}…, but {embeddings} is {manifest.digest[:12]}… of model {version}; "
            "publish the pair that was judged"
        )


def _release(
    sealed: Generation, manifest: Manifest, cutoff: datetime, current: Release | None, verified: dict[str, Any]
) -> Release:
    return Release(
        number=current.number + 1 if current else 1,
        application=sealed.application,
        model_version=sealed.model_version,
        model_uri=manifest.details["model_uri"],
        model_digest=manifest.details["model_digest"],
        generation=sealed.name,
        as_of=sealed.as_of,
        cutoff=cutoff,
        newest_event_time=sealed.newest_event_time,
        tasks=sealed.tasks,
        width=sealed.width,
        dtype=sealed.dtype,
        embeddings_digest=sealed.embeddings_digest,
        previous=current.number if current else None,
        verified=verified,
    )
