"""The little of Kubernetes' API that a step needs, and what its answers mean."""

import json
import logging
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import kubernetes
import urllib3
from kubernetes.client.exceptions import ApiException

from limaml.errors import KubeflowError

log = logging.getLogger(__name__)

_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_SECONDS = (5.0, 30.0)  # to connect; to answer


class Lost(Exception):
    """No answer, or one that says "later": it may be asked again."""


class NotFound(Exception):
    """There is no such object, or no such kind of object."""


class Conflict(Exception):
    """An object of this name is there already."""


class Denied(KubeflowError):
    """The step's service account may not do this; or the server has just started and does not know its rights yet."""


class Refused(Exception):
    """The server does not take what it was sent."""


class Api:
    """One namespace of a cluster."""

    def __init__(self, namespace: str, client: kubernetes.client.ApiClient) -> None:
        self.namespace = namespace
        self._client = client

    def get(self, path: str, query: Mapping[str, str] | None = None) -> dict[str, Any]:
        """An object, or a list of them."""
        return self._call("GET", path, query)

    def create(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Make an object; a field the server does not know is refused, not dropped."""
        return self._call("POST", path, {"fieldValidation": "Strict"}, body)

    def patch(self, path: str, body: dict[str, Any]) -> None:
        """Change fields of an object."""
        self._call("PATCH", path, None, body, "application/merge-patch+json")

    def delete(self, path: str) -> None:
        """Delete an object and what belongs to it; nothing happens where it is gone."""
        try:
            self._call("DELETE", path, {"propagationPolicy": "Background"})
        except NotFound:
            return

    def text(self, path: str, query: Mapping[str, str]) -> str:
        """A text, such as a log."""
        return self._send("GET", path, query).decode(errors="replace")

    def _call(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: dict[str, Any] | None = None,
        content: str = "application/json",
    ) -> dict[str, Any]:
        try:
            answer = json.loads(self._send(method, path, query or {}, body, content))
        except json.JSONDecodeError as error:
            raise Lost(f"{method} {path}: half an answer: {error}") from error
        return answer

    def _send(
        self,
        method: str,
        path: str,
        query: Mapping[str, str],
        body: dict[str, Any] | None = None,
        content: str = "application/json",
    ) -> bytes:
        try:
            response: Any = self._client.call_api(
                path,
                method,
                query_params=list(query.items()),
                header_params={"Accept": "*/*", "Content-Type": content},
                body=body,
                auth_settings=["BearerToken"],
                _preload_content=False,
                _return_http_data_only=True,
                _request_timeout=_SECONDS,
            )
            # Read here, where a connection that ends too early is an error like any other.
            return response.read(decode_content=True)
        except ApiException as error:
            raise _meaning(method, path, error) from error
        except urllib3.exceptions.HTTPError as error:
            raise Lost(f"{method} {path}: {type(error).__name__}: {error}") from error


def _meaning(method: str, path: str, error: ApiException) -> Exception:
    try:
        message = json.loads(error.body or "")["message"]
    except (json.JSONDecodeError, KeyError, TypeError):
        message = str(error.body or error.reason)
    match error.status:
        case 404:
            return NotFound(message)
        case 409:
            return Conflict(message)
        # Admission webhooks deny with 403, too: only these words are the authorizer's own.
        case 401 | 403 if error.status == 401 or " cannot " in message:
            return Denied(
                f"{method} {path}: {message}; give the step's service account this right (docs/scale.md lists them)"
            )
        case 429 | 500 | 502 | 503 | 504 | 0:
            return Lost(f"{method} {path}: {error.status} {message}")
    return Refused(message)


def ask(
    question: Callable[..., Any],
    *arguments: Any,
    patience: float = 600.0,
    wait: float = 1.0,
    passing: type[Exception] = Lost,
) -> Any:
    """Ask until there is an answer, each time after a longer wait.

    Raises:
        Lost: there was none for `patience` seconds; or what `passing` names instead.
    """
    ends = time.monotonic() + patience
    while True:
        try:
            return question(*arguments)
        except passing as error:
            if time.monotonic() + wait > ends:
                raise
            log.warning("Kubernetes does not answer as it should, asked again in %.0f s: %s", wait, error)
            time.sleep(wait)
            wait = min(2 * wait, 30.0)


def connect() -> Api:
    """The cluster this pod runs in, and its namespace.

    Raises:
        KubeflowError: there is no service account's token in this pod.
    """
    settings: Any = kubernetes.client.Configuration()
    try:
        kubernetes.config.load_incluster_config(settings)
        namespace = (_ACCOUNT / "namespace").read_text().strip()
    except (kubernetes.config.ConfigException, OSError) as error:
        raise KubeflowError(
            f"no access to Kubernetes from this pod: {error}; let its service account mount its token"
        ) from error
    settings.retries = False
    return Api(namespace, kubernetes.client.ApiClient(settings))


def in_cluster() -> bool:
    """Whether this process runs in a pod."""
    return bool(os.environ.get("KUBERNETES_SERVICE_HOST"))
