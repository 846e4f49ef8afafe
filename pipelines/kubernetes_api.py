"""What is there on the Kubernetes cluster, read with the pod's account or a kubeconfig; nothing is changed by it."""

from typing import Any

import kubernetes
from kubernetes.config import ConfigException

from components.launch.api import Api, Lost, NotFound, Refused
from limaml.errors import KubeflowError


class Denied(KubeflowError):
    """This account may not look."""


class KubernetesApi:
    """A connection to the cluster's API."""

    def __init__(self, context: str = "") -> None:
        """Connect as the pod does, else as the kubeconfig says.

        Raises:
            KubeflowError: there is neither, or no such context.
        """
        config: Any = kubernetes.client.Configuration()
        try:
            try:
                kubernetes.config.load_incluster_config(client_configuration=config)
            except ConfigException:
                kubernetes.config.load_kube_config(client_configuration=config, context=context or None)
        except ConfigException as error:
            raise KubeflowError(
                f"no way to Kubernetes: this is no pod, and the kubeconfig says: {error}; "
                "set KUBECONFIG, or name a --context"
            ) from error
        config.retries = False
        self.endpoint = str(config.host)
        self._api = Api("", kubernetes.client.ApiClient(config))

    def get(self, path: str, **query: str) -> dict[str, Any] | None:
        """What the API holds at a path; None where there is nothing.

        Raises:
            Denied: this account may not look.
            KubeflowError: no answer, or an error.
        """
        try:
            return self._api.get(path, query)
        except NotFound:
            return None
        except KubeflowError as error:
            what, _, _ = str(error).rpartition("; ")
            do = "give this account the right, or run as somebody who has it"
            raise Denied(f"Kubernetes at {self.endpoint}: {what}; {do}") from error
        except Refused as error:
            raise KubeflowError(
                f"Kubernetes at {self.endpoint} refuses {path}: {error}; check its API server"
            ) from error
        except Lost as error:
            do = "check the kubeconfig's context, VPN and `kubectl version`"
            raise KubeflowError(f"Kubernetes at {self.endpoint} does not answer: {error}; {do}") from error

    def version(self) -> str:
        """The server's version, such as v1.36.0."""
        return str((self.get("/version") or {}).get("gitVersion") or "unknown")

    def serves(self, group: str, kind: str) -> bool:
        """Whether a kind of resource is known, in any version of its group; every account may ask that."""
        found = self.get(f"/apis/{group}") or {}
        for version in found.get("versions") or ():
            resources = self.get(f"/apis/{version['groupVersion']}") or {}
            if any(each.get("kind") == kind for each in resources.get("resources") or ()):
                return True
        return False

    def nodes(self) -> list[dict[str, Any]]:
        """Every node."""
        found, token = [], ""
        while True:
            page = self.get("/api/v1/nodes", limit="200", **({"continue": token} if token else {})) or {}
            found += page.get("items") or []
            token = (page.get("metadata") or {}).get("continue") or ""
            if not token:
                return found

    def namespaced(self, namespace: str, kind: str, name: str) -> dict[str, Any] | None:
        """An object of the core API, such as kind `secrets`; None where there is none."""
        return self.get(f"/api/v1/namespaces/{namespace}/{kind}/{name}")
