"""The cluster that KUBECONFIG names: a namespace a test, restricted; the image and what else a cluster can't guess.

LIMAML_TEST_IMAGE: our image, by a name that nodes can pull or hold already. LIMAML_TEST_REDIS_IMAGE: another
one than the chart's default. Where no node is ready, tests that need running pods are skipped.
"""

import json
import os
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import kubernetes
import pytest
from kubernetes.client.exceptions import ApiException

from components.launch.api import Api

RESTRICTED = {
    "pod-security.kubernetes.io/enforce": "restricted",
    "pod-security.kubernetes.io/enforce-version": "latest",
}


class Cluster:
    """The cluster's API, asked as whoever the kubeconfig says, which must be an administrator."""

    def __init__(self, kubeconfig: str) -> None:
        self.kubeconfig = kubeconfig
        self.settings: Any = kubernetes.client.Configuration()
        kubernetes.config.load_kube_config(kubeconfig, client_configuration=self.settings)
        self.client = kubernetes.client.ApiClient(self.settings)
        self.core = kubernetes.client.CoreV1Api(self.client)
        self._kinds: dict[str, dict[str, tuple[str, bool]]] = {}

    def call(self, method: str, path: str, body: Any = None, content: str = "application/json", **query: str) -> Any:
        """One request to any path, and the object it is answered with."""
        return json.loads(self.text(method, path, body, content, **query) or "null")

    def text(self, method: str, path: str, body: Any = None, content: str = "application/json", **query: str) -> str:
        """One request to any path, and the answer as it is."""
        response: Any = self.client.call_api(
            path,
            method,
            query_params=list(query.items()),
            header_params={"Accept": "*/*", "Content-Type": content},
            body=body,
            auth_settings=["BearerToken"],
            _preload_content=False,
            _return_http_data_only=True,
        )
        return response.read(decode_content=True).decode()

    def path(self, body: dict[str, Any]) -> str:
        """Where objects of this one's kind lie; empty where the cluster knows no such kind."""
        version = body["apiVersion"]
        root = f"/apis/{version}" if "/" in version else f"/api/{version}"
        if root not in self._kinds:
            try:
                found = self.call("GET", root)["resources"]
            except ApiException as error:
                if error.status != 404:
                    raise
                found = []
            self._kinds[root] = {
                each["kind"]: (each["name"], each["namespaced"]) for each in found if "/" not in each["name"]
            }
        if body["kind"] not in self._kinds[root]:
            return ""
        plural, namespaced = self._kinds[root][body["kind"]]
        return f"{root}/namespaces/{body['metadata']['namespace']}/{plural}" if namespaced else f"{root}/{plural}"

    def create(self, body: dict[str, Any], **query: str) -> Any:
        """Make an object; a field the server does not know is an error."""
        return self.call("POST", self.path(body), body, fieldValidation="Strict", **query)

    def as_account(self, namespace: str, account: str) -> Api:
        """The launchers' client, with a token of a service account."""
        body = {"spec": {"expirationSeconds": 3600}}
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token"
        settings: Any = kubernetes.client.Configuration()
        settings.host, settings.ssl_ca_cert = self.settings.host, self.settings.ssl_ca_cert
        settings.verify_ssl = self.settings.verify_ssl
        settings.api_key["authorization"] = self.call("POST", path, body)["status"]["token"]
        settings.api_key_prefix["authorization"] = "Bearer"
        settings.retries = False
        return Api(namespace, kubernetes.client.ApiClient(settings))

    def may(self, namespace: str, account: str, verb: str, resource: str, name: str = "") -> bool:
        """What `kubectl auth can-i` says; a resource is `pods`, `pods/log` or `trainjobs.trainer.kubeflow.org`."""
        kind, _, group = resource.partition(".")
        kind, _, part = kind.partition("/")
        where = {
            "namespace": namespace,
            "verb": verb,
            "resource": kind,
            "subresource": part,
            "group": group,
            "name": name,
        }
        user = f"system:serviceaccount:{namespace}:{account}"
        groups = ["system:serviceaccounts", f"system:serviceaccounts:{namespace}", "system:authenticated"]
        body = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SubjectAccessReview",
            "spec": {"user": user, "groups": groups, "resourceAttributes": where},
        }
        return self.call("POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", body)["status"]["allowed"]


def until(what: str, question: Callable[[], Any], seconds: float = 180.0) -> Any:
    """The first true answer."""
    ends = time.monotonic() + seconds
    while not (answer := question()):
        assert time.monotonic() < ends, f"not within {seconds:.0f} s: {what}"
        time.sleep(1)
    return answer


@pytest.fixture(scope="session")
def cluster() -> Cluster:
    """The cluster of KUBECONFIG."""
    path = os.environ.get("KUBECONFIG", "")
    assert path, (
        "set KUBECONFIG to the file of a cluster whose administrator you are; these tests make namespaces there"
    )
    return Cluster(str(Path(path)))


@pytest.fixture(scope="session")
def nodes(cluster: Cluster) -> None:
    """Skip where no node runs pods."""
    for node in cluster.core.list_node().items:
        if any(each.type == "Ready" and each.status == "True" for each in node.status.conditions or ()):
            return
    pytest.skip("no node of this cluster is ready")


@pytest.fixture(scope="session")
def image() -> str:
    """Our image by its name on the cluster."""
    name = os.environ.get("LIMAML_TEST_IMAGE", "")
    assert name, "set LIMAML_TEST_IMAGE to our image, by a name that the cluster's nodes can pull or hold already"
    return name


@contextmanager
def new_namespace(cluster: Cluster) -> Iterator[str]:
    """A namespace that takes restricted pods only, for as long as the block runs."""
    name = f"limaml-test-{uuid.uuid4().hex[:8]}"
    cluster.core.create_namespace({"metadata": {"name": name, "labels": RESTRICTED}})
    account = f"/api/v1/namespaces/{name}/serviceaccounts/default"
    try:
        until("the namespace's default account", lambda: _there(cluster, account), 30)
        yield name
    finally:
        cluster.core.delete_namespace(name)


@pytest.fixture
def namespace(cluster: Cluster) -> Iterator[str]:
    """A new namespace that takes restricted pods only."""
    with new_namespace(cluster) as name:
        yield name


def _there(cluster: Cluster, path: str) -> bool:
    try:
        cluster.call("GET", path)
    except ApiException as error:
        if error.status == 404:
            return False
        raise
    return True
