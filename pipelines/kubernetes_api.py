"""What is there on the Kubernetes cluster, read with the pod's account or a kubeconfig; nothing is changed by it."""

import json
from pathlib import Path
from typing import Any

import kubernetes
from kubernetes.client import ApiException
from kubernetes.config import ConfigException
from urllib3 import exceptions as transport

from limaml.errors import KubeflowError

SECONDS = (5, 10)  # to connect, to answer


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
        self._client = kubernetes.client.ApiClient(config)

    def get(self, path: str) -> dict[str, Any] | None:
        """What the API holds at a path; None where there is nothing.

        Raises:
            Denied: this account may not look.
            KubeflowError: no answer, or an error.
        """
        try:
            answer = self._client.call_api(
                path,
                "GET",
                header_params={"Accept": "application/json"},
                auth_settings=["BearerToken"],
                _preload_content=False,
                _return_http_data_only=True,
                _request_timeout=SECONDS,
            )
            return json.loads(answer.data)  # type: ignore[union-attr]
        except ApiException as error:
            if error.status == 404:
                return None
            if error.status in (401, 403):
                raise Denied(
                    f"Kubernetes at {self.endpoint}: not allowed to get {path} ({error.status}); give this account the "
                    "right, or run as somebody who has it"
                ) from error
            raise KubeflowError(f"Kubernetes at {self.endpoint}: {path}: {error.status} {error.reason}") from error
        except (transport.HTTPError, OSError, ValueError) as error:
            said = " ".join(str(error).split())[:300]
            raise KubeflowError(
                f"Kubernetes at {self.endpoint} does not answer: {said}; "
                "check the kubeconfig's context, VPN and `kubectl version`"
            ) from error

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
            page = self.get(f"/api/v1/nodes?limit=200{'&continue=' + token if token else ''}") or {}
            found += page.get("items") or []
            token = (page.get("metadata") or {}).get("continue") or ""
            if not token:
                return found

    def namespaced(self, namespace: str, kind: str, name: str) -> dict[str, Any] | None:
        """An object of the core API, such as kind `secrets`; None where there is none."""
        return self.get(f"/api/v1/namespaces/{namespace}/{kind}/{name}")


def pod_namespace(account: Path) -> str:
    """The namespace of the pod this runs in; empty outside of one."""
    file = account / "namespace"
    return file.read_text().strip() if file.is_file() else ""
