"""What is launched: a custom resource, where it lies, what its pods are called and how it says how it is."""

import logging
import os
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from components import IMAGE
from components.launch.api import Api, Lost, NotFound, ask
from limaml.cluster_sections import Cluster, StepResources

log = logging.getLogger(__name__)

State = Literal["queued", "running", "done", "failed"]
MANAGER = "limaml.io/step"
APPLICATION = "limaml.io/application"


@dataclass(frozen=True)
class Kind:
    """A custom resource that runs pods.

    Attributes:
        title: its name for people; `operator` is what acts on it.
        group, version, plural: where it lies.
        pods: label of its pods whose value is the object's name.
        speaks: whether a pod's log is worth passing on.
        state: how an object is, and its own words for it.
    """

    title: str
    operator: str
    group: str
    version: str
    plural: str
    pods: str
    speaks: Callable[[Mapping[str, Any]], bool]
    state: Callable[[Mapping[str, Any]], tuple[State, str]]

    def path(self, namespace: str, name: str = "") -> str:
        """URL of an object; without a name, of all."""
        folder = f"/apis/{self.group}/{self.version}/namespaces/{namespace}/{self.plural}"
        return f"{folder}/{name}" if name else folder

    @property
    def resource(self) -> str:
        """How Kubernetes calls the kind: `trainjobs.trainer.kubeflow.org`."""
        return f"{self.plural}.{self.group}"


def object_name(application: str, purpose: str, fingerprint: str) -> str:
    """A name that is the same for the same work, and short enough for what operators append to it."""
    return f"{application.replace('_', '-')[:22]}-{purpose}-{fingerprint[:10]}"


def environment(cluster: Cluster) -> list[dict[str, Any]]:
    """The variables of every step, for other pods."""
    plain = [{"name": name, "value": value} for name, value in sorted(cluster.environment.items())]
    return plain + [
        {
            "name": each.variable,
            "valueFrom": {"secretKeyRef": {"name": each.secret, "key": each.key, "optional": each.optional}},
        }
        for each in cluster.secrets
    ]


def volumes(cluster: Cluster, step: StepResources) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Volumes and where they are mounted: the claims, room for temporary files, and a /dev/shm of the wanted size."""
    made: list[dict[str, Any]] = [{"name": "tmp", "emptyDir": {}}]
    mounts = [{"name": "tmp", "mountPath": "/tmp"}]
    if step.shared_memory:
        made.append({"name": "shared-memory", "emptyDir": {"medium": "Memory", "sizeLimit": step.shared_memory}})
        mounts.append({"name": "shared-memory", "mountPath": "/dev/shm"})
    for number, volume in enumerate(cluster.volumes):
        made.append({"name": f"volume-{number}", "persistentVolumeClaim": {"claimName": volume.claim}})
        mounts.append({"name": f"volume-{number}", "mountPath": volume.path})
    return made, mounts


def tolerations(step: StepResources) -> list[dict[str, str]]:
    """What taints the pods run in spite of."""
    return [{name: value for name, value in each.model_dump().items() if value} for each in step.tolerations]


def own_image(api: Api) -> str:
    """The image of this step's pod, so that what it launches is of the same version."""
    try:
        pod = ask(api.get, f"/api/v1/namespaces/{api.namespace}/pods/{own_pod()}")
    except (NotFound, Lost) as error:
        log.warning("this step's pod can't be looked at, so its image is taken to be %s: %s", IMAGE, error)
        return IMAGE
    images = {container["name"]: container["image"] for container in pod["spec"]["containers"]}
    return images.get("main") or next(iter(images.values()))


def own_pod() -> str:
    """The name of this step's pod."""
    return os.environ.get("KFP_POD_NAME") or socket.gethostname()


def owners() -> list[dict[str, Any]]:
    """This step's pod as an owner: when Kubeflow clears it away, so it does what the step launched."""
    uid = os.environ.get("KFP_POD_UID")
    return [{"apiVersion": "v1", "kind": "Pod", "name": own_pod(), "uid": uid}] if uid else []
