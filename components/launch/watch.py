"""Make an object, watch it to its end, pass its pods' logs on, and say why it failed.

It is asked how it is every few seconds: a watch would have to be made anew after each lost connection all the same, and
then could have missed something. Whoever launches the same work meanwhile, or again, joins the object that is there.
"""

import logging
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from components.launch import pods
from components.launch.api import Api, Conflict, Denied, Lost, NotFound, Refused, ask
from components.launch.job import APPLICATION, MANAGER, Kind, owners
from components.launch.signals import ToldToEnd, until_told_to_end
from limaml import errors
from limaml.errors import KubeflowError

log = logging.getLogger(__name__)

# Of the thirty that Kubernetes leaves a pod to end.
_CLEARING_SECONDS = 20.0


@dataclass(frozen=True)
class Limits:
    """How long what may last, in seconds.

    Attributes:
        pending: a pod without a node, an object without pods, or a pod that has a node and no container yet.
        grace: a container that can't start, or a right that is suddenly missing.
        total: the whole, from its launch.
        lost: Kubernetes without an answer.
        poll: between two questions.
    """

    pending: float = 1800.0
    grace: float = 60.0
    total: float = 43_200.0
    lost: float = 600.0
    poll: float = 3.0


@dataclass
class Launch:
    """One object and its pods, while this process watches them; `older` is the body for servers of fewer fields."""

    api: Api
    kind: Kind
    body: dict[str, Any]
    limits: Limits
    older: dict[str, Any] | None = None
    holder: str = field(default_factory=lambda: uuid.uuid4().hex)
    since: dict[tuple[str, str], float] = field(default_factory=dict)
    begun: bool = False

    def __post_init__(self) -> None:
        self.logs = pods.Logs(self.api)
        self.name = self.body["metadata"]["name"]
        self.what = f"{self.kind.title} {self.api.namespace}/{self.name}"

    def run(self) -> None:
        """Launch or join the object and stay until it is done; clear it away when this step is told to end.

        Raises:
            KubeflowError: it failed, was deleted, could not be made or can't start; or Kubernetes is out of reach, in
                which case it works on and the next attempt joins it.
            LimamlError: the error its own code ended with.
        """
        with until_told_to_end():
            try:
                self._begin()
                self._follow()
            except Lost as error:
                raise KubeflowError(
                    f"{self.what}: Kubernetes gave no answer for {self.limits.lost:.0f} s: {error}. What was launched "
                    "works on: run the step again to join it"
                ) from error
            except ToldToEnd:
                log.warning("%s: deleted, since this step was told to end", self.what)
                self._clear(_CLEARING_SECONDS)
                raise SystemExit(143) from None
            except errors.LimamlError:
                self._clear(self.limits.lost)
                raise

    def _begin(self) -> None:
        mine: dict[str, Any] = {"annotations": {MANAGER: self.holder}}
        mine |= {"ownerReferences": owners()} if owners() else {}
        while True:
            found = self._object()
            if found is not None and self.kind.state(found)[0] in ("done", "failed"):
                self._remove()
            elif found is not None:
                self._ask(self.api.patch, self._path, {"metadata": mine})
                self.begun = True
                log.info("%s: is there already; joined", self.what)
                return
            body = self.body | {"metadata": self.body["metadata"] | mine}
            try:
                self._ask(self.api.create, self.kind.path(self.api.namespace), body)
            except Conflict:
                continue  # another process was faster, or the old one is not quite gone
            except NotFound as error:
                raise KubeflowError(
                    f"{self.what}: the cluster knows no {self.kind.resource} ({error}): install {self.kind.operator}, "
                    "then look at `limaml doctor`"
                ) from error
            except Refused as error:
                if self.older is None or "unknown field" not in str(error):
                    raise KubeflowError(f"{self.what}: the cluster refuses it: {error}") from error
                self.body, self.older = self.older, None
                continue
            self.begun = True
            log.info("%s: launched", self.what)
            return

    def _follow(self) -> None:
        started = time.monotonic()
        before = ""
        while True:
            found = self._object()
            if found is None:
                raise KubeflowError(f"{self.what}: somebody deleted it while it ran; run the step again")
            state, words = self.kind.state(found)
            members = self._pods()
            for pod in members:
                if self.kind.speaks(pod):
                    self.logs.take(pod, f"[{_short(pod, self.name)}] " if len(members) > 1 else "")
            if state == "done":
                log.info("%s: done", self.what)
                return
            if state == "failed":
                raise self._failure(members, words)
            if (summary := f"{state} {words}".strip()) != before:
                log.info("%s: %s", self.what, summary)
                before = summary
            if state == "running":
                self._check(members)
            if time.monotonic() - started > self.limits.total:
                raise KubeflowError(f"{self.what}: not done after {self.limits.total:.0f} s; raise the step's timeout")
            time.sleep(self.limits.poll)

    def _check(self, members: list[pods.Pod]) -> None:
        """Raise where something waits for what won't come."""
        now, limits = time.monotonic(), self.limits
        trouble: dict[tuple[str, str], tuple[float, str]] = {}
        for pod, why in pods.waiting(members).items():
            trouble["no node", pod] = (limits.pending, f"no node takes pod {pod}: {why}")
        for pod, node in pods.preparing(members).items():
            trouble["no start", pod] = (limits.pending, f"pod {pod} does not start on node {node}")
        for pod, why in pods.stuck(members).items():
            trouble["stuck", pod] = (limits.grace, f"pod {pod} can't start: {why}")
        if not members:
            trouble["no pods", self.name] = (limits.pending, f"it has no pods: is {self.kind.operator} running?")
        self.since = {each: self.since.get(each, now) for each in trouble}
        for (kind, name), (patience, message) in trouble.items():
            waited = now - self.since[kind, name]
            if waited >= patience:
                # Asked for now, not at every look.
                said = self._warnings(name) if kind in ("no start", "no pods") else ""
                raise KubeflowError(f"{self.what}: {message}{said and f' {said}'} (for {waited:.0f} s)")

    def _failure(self, members: list[pods.Pod], words: str) -> errors.LimamlError:
        """Why it failed: an error of ours keeps its kind; else how each container ended, and the object's own words."""
        ends = list(pods.endings(members))
        for _, end in ends:
            if (known := errors.from_line(end)) is not None:
                return known
        said = "; ".join(dict.fromkeys([*(f"pod {pod}: {end}" for pod, end in ends), *filter(None, [words])]))
        return KubeflowError(f"{self.what}: failed: {said or 'without a reason'}")

    def _object(self) -> dict[str, Any] | None:
        try:
            return self._ask(self.api.get, self._path)
        except NotFound:
            return None

    def _pods(self) -> list[pods.Pod]:
        query = {"labelSelector": f"{self.kind.pods}={self.name}"}
        found = self._ask(self.api.get, f"/api/v1/namespaces/{self.api.namespace}/pods", query)
        return sorted(found.get("items") or [], key=lambda pod: pod["metadata"]["name"])

    def _warnings(self, name: str) -> str:
        return pods.warnings(self.api.get, self.api.namespace, name)

    def _remove(self) -> None:
        """Delete what an earlier attempt left, and wait until it is gone."""
        self._ask(self.api.delete, self._path)
        ends = time.monotonic() + self.limits.lost
        while self._object() is not None:
            if time.monotonic() > ends:
                raise KubeflowError(f"{self.what}: an earlier attempt is being deleted, and does not go: look at it")
            time.sleep(min(self.limits.poll, 1.0))

    def _clear(self, patience: float) -> None:
        """Delete it, unless another attempt has joined it meanwhile."""
        if not self.begun:
            return
        try:
            found = self._ask(self.api.get, self._path, patience=patience)
            if found["metadata"].get("annotations", {}).get(MANAGER) == self.holder:
                self._ask(self.api.delete, self._path, patience=patience)
        except NotFound:
            return
        except (Lost, KubeflowError) as error:
            log.error("%s: may still run, delete it by hand: %s", self.what, error)

    @property
    def _path(self) -> str:
        return self.kind.path(self.api.namespace, self.name)

    def _ask(self, question: Callable[..., Any], *arguments: Any, patience: float | None = None) -> Any:
        seconds = self.limits.lost if patience is None else patience
        wait = self.limits.poll / 4
        if not self.begun:
            return ask(question, *arguments, patience=seconds, wait=wait)
        # A right that was there at the launch is hardly gone: an API server that starts does not know it yet.
        again = partial(ask, question, *arguments, patience=seconds, wait=wait)
        return ask(again, patience=min(seconds, self.limits.grace), wait=wait, passing=Denied)


def labelled(body: dict[str, Any], application: str) -> dict[str, Any]:
    """The object with what tells people whose it is."""
    metadata = body["metadata"]
    metadata["labels"] = {"app.kubernetes.io/managed-by": "limaml", APPLICATION: application.replace("_", "-")}
    return body


def _short(pod: Mapping[str, Any], name: str) -> str:
    return pod["metadata"]["name"].removeprefix(f"{name}-")
