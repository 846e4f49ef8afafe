"""What the pods of a launched object say: their logs, why they wait, why they ended."""

import logging
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from components.launch.api import Api, Lost, NotFound, Refused
from limaml.errors import KubeflowError

log = logging.getLogger(__name__)

# A container that waits for one of these waits in vain, but for a registry that is back in a moment.
STUCK = {
    "CrashLoopBackOff",
    "CreateContainerConfigError",
    "CreateContainerError",
    "ErrImageNeverPull",
    "ErrImagePull",
    "ImageInspectError",
    "ImagePullBackOff",
    "InvalidImageName",
    "RunContainerError",
}
# A line of a log begins with when it was written, to the nanosecond, in UTC.
_STAMPED = re.compile(r"^(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d+))?Z (.*)$")

Pod = Mapping[str, Any]


@dataclass
class Logs:
    """Passes on what pods write, each line once, however often the connection breaks."""

    api: Api
    read: dict[str, str] = field(default_factory=dict)

    def take(self, pod: Pod, prefix: str) -> None:
        """Pass on the lines that came since the last time."""
        name = pod["metadata"]["name"]
        started = [each["name"] for each in _containers(pod) if "waiting" not in each.get("state", {})]
        for container in started:
            since = self.read.get(f"{name}/{container}", "")
            query = {"container": container, "timestamps": "true"} | ({"sinceTime": since} if since else {})
            try:
                text = self.api.text(f"/api/v1/namespaces/{self.api.namespace}/pods/{name}/log", query)
            except (NotFound, Refused, Lost) as error:
                log.debug("no log of %s: %s", name, error)
                continue
            for line in text.splitlines():
                if (match := _STAMPED.match(line)) is None:
                    continue
                stamp = f"{match[1]}.{(match[2] or '').ljust(9, '0')}Z"
                if stamp > since:
                    self.read[f"{name}/{container}"] = stamp
                    log.info("%s%s", prefix, match[3])


def waiting(pods: list[Pod]) -> dict[str, str]:
    """Pod → the scheduler's message, of those that no node takes."""
    found = {}
    for pod in pods:
        for condition in pod.get("status", {}).get("conditions") or []:
            if condition["type"] == "PodScheduled" and condition["status"] == "False":
                found[pod["metadata"]["name"]] = condition.get("message") or condition.get("reason", "")
    return found


def preparing(pods: list[Pod]) -> dict[str, str]:
    """Pod → its node, of those that have one and of which no container has ever started.

    Its volumes are mounted meanwhile, its network is made and its image pulled; what of it fails is in events alone.
    """
    found = {}
    for pod in pods:
        idle = all("waiting" in (each.get("state") or {"waiting": {}}) for each in _containers(pod))
        node = pod.get("spec", {}).get("nodeName")
        if node and idle and pod.get("status", {}).get("phase") == "Pending" and not stuck([pod]):
            found[pod["metadata"]["name"]] = node
    return found


def warnings(ask: Callable[..., Any], namespace: str, name: str) -> str:
    """The newest warnings about an object, such as a volume that can't be mounted; empty where they can't be read."""
    query = {"fieldSelector": f"involvedObject.name={name},type=Warning"}
    try:
        found = (ask(f"/api/v1/namespaces/{namespace}/events", query) or {}).get("items") or []
    except (KubeflowError, NotFound, Lost, Refused):
        return ""
    last = sorted(found, key=_when)[-3:]
    return "; ".join(dict.fromkeys(" ".join(str(each.get("message") or "").split()) for each in last))


def _when(event: Mapping[str, Any]) -> str:
    """When an event was last seen; the newer API calls that otherwise."""
    series = (event.get("series") or {}).get("lastObservedTime")
    made = (event.get("metadata") or {}).get("creationTimestamp")
    return str(event.get("lastTimestamp") or series or event.get("eventTime") or made or "")


def stuck(pods: list[Pod]) -> dict[str, str]:
    """Pod → why a container of it can't start."""
    found = {}
    for pod in pods:
        for container in _containers(pod):
            state = container.get("state", {}).get("waiting") or {}
            if state.get("reason") in STUCK:
                what = f"{state['reason']}: {state.get('message', '')}".rstrip(": ")
                found[pod["metadata"]["name"]] = f"{what} (image {container.get('image', '?')})"
    return found


def endings(pods: list[Pod]) -> Iterator[tuple[str, str]]:
    """Pods whose containers failed, each with the container's last words, or how it ended."""
    for pod in pods:
        name, status = pod["metadata"]["name"], pod.get("status", {})
        for container in _containers(pod):
            ends = [container.get(state, {}).get("terminated") for state in ("state", "lastState")]
            for end in filter(None, ends):
                if end.get("exitCode"):
                    how = f"{end.get('reason', 'Error')}, exit code {end['exitCode']}"
                    yield name, (end.get("message") or "").strip() or how
        if status.get("phase") == "Failed" and status.get("reason"):
            yield name, f"{status['reason']}: {status.get('message', '')}"


def _containers(pod: Pod) -> list[Mapping[str, Any]]:
    status = pod.get("status", {})
    return [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]
