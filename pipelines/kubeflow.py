"""Kubeflow Pipelines' API: the one place that makes a client, waits for it, and says what went wrong.

`kfp.Client` brings endpoint and credentials; its own methods print to standard output and wait without limit, so
requests go through the generated API beneath it, each with a deadline, and every failure becomes a `KubeflowError`
that names the endpoint, what happened, and what to do.
"""

import json
import logging
import os
import re
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import kfp
import kfp_server_api
from kfp.client.set_volume_credentials import ServiceAccountTokenVolumeCredentials
from urllib3 import exceptions as transport

from limaml.errors import ConfigError, KubeflowError
from limaml.online.retry import tries
from pipelines import kubeflow_errors
from pipelines.kubeflow_errors import Refusal, Server

log = logging.getLogger(__name__)

MINIMUM_VERSION = (2, 16)
IN_CLUSTER = "http://ml-pipeline.kubeflow.svc.cluster.local:8888"
POD_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
POD_TOKEN = Path("/var/run/secrets/kubeflow/pipelines/token")
DEFAULT_TOKEN_VARIABLE = "KF_PIPELINES_TOKEN"
REPEAT_SECONDS = 20.0
PAGE = 100
_TRANSIENT = {429, 500, 502, 503, 504}
_NEVER_SENT = (transport.NewConnectionError, transport.ConnectTimeoutError)


@dataclass(frozen=True)
class Access:
    """Where Kubeflow Pipelines is and as whom it is asked; empty: found out, see `connect`."""

    host: str = ""
    namespace: str = ""
    token_variable: str = ""
    ca: str = ""

    def endpoint(self) -> str:
        """The API's URL.

        Raises:
            ConfigError: none is given and this is no pod, or it is no URL.
        """
        host = self.host or os.environ.get("KF_PIPELINES_ENDPOINT", "")
        if not host and POD_ACCOUNT.is_dir():
            host = IN_CLUSTER
        if not host:
            raise ConfigError(
                "where is Kubeflow Pipelines? Give --host or set KF_PIPELINES_ENDPOINT, such as http://localhost:8888 "
                "after `kubectl -n kubeflow port-forward svc/ml-pipeline 8888`"
            )
        if not re.match(r"https?://[^/\s@]+(/[^@]*)?$", host):
            shown = re.sub(r"(?<=//)[^/@]*(?=@)", "…", host)
            raise ConfigError(f"--host {shown!r}: give a URL that begins with http:// or https://, without a password")
        return host.rstrip("/")

    def token(self) -> str:
        """The token in the variable that is named, or in KF_PIPELINES_TOKEN; empty: none."""
        value = os.environ.get(self.token_variable or DEFAULT_TOKEN_VARIABLE, "").strip()
        if self.token_variable and not value:
            raise ConfigError(f"--token-variable {self.token_variable}: that environment variable is empty or not set")
        return value


class _Client(kfp.Client):
    """Made without asking the server, which the original does five times over and without a deadline."""

    def get_kfp_healthz(self, sleep_duration: int = 0) -> Any:
        """Nothing yet: `connect` asks by itself."""
        return kfp_server_api.V2beta1GetHealthzResponse(multi_user=False)

    def _load_config(self, *given: Any, **named: Any) -> Any:
        config: Any = super()._load_config(*given, **named)
        config.retries = False  # one deadline, ours: urllib3 would try each request three times more by itself
        return config


class Kubeflow:
    """A connection whose server has answered; see `connect`."""

    def __init__(self, client: kfp.Client, endpoint: str, namespace: str = "") -> None:
        self.server = Server(endpoint, namespace or None)
        self.version = ""
        self.multi_user = False
        api: Any = client  # the services below are attached to it by name
        self.pipelines, self.uploads = api.pipelines, api.pipeline_uploads
        self.experiments, self.runs, self.recurring_runs = api.experiments, api.runs, api.recurring_runs
        self._health = api.healthzs

    @property
    def endpoint(self) -> str:
        """The API's URL."""
        return self.server.endpoint

    @property
    def namespace(self) -> str | None:
        """The team's namespace; None where there is one team."""
        return self.server.namespace

    def call(
        self,
        action: str,
        request: Callable[..., Any],
        *,
        safe: bool = True,
        patience: float | None = None,
        **given: Any,
    ) -> dict[str, Any]:
        """The answer to one request, as plain data: the client's own models take a page of HTML for an empty listing.

        Args:
            action: what it is for, as in "can't <action>".
            request: a method of one of the services.
            safe: whether doing it twice does no harm; if not, only what was never sent is sent again.
            patience: seconds within which it is tried again, with pauses, while the connection or the server fails; by
                default, REPEAT_SECONDS.
            given: the request's arguments.

        Raises:
            Refusal: the server answered with an error.
            KubeflowError: it could not be asked, or did not answer as Kubeflow Pipelines does.
        """
        failure: KubeflowError | None = None
        for _ in tries(REPEAT_SECONDS if patience is None else patience):
            try:
                answer = request(
                    _request_timeout=(kubeflow_errors.CONNECT_SECONDS, kubeflow_errors.ANSWER_SECONDS),
                    _preload_content=False,
                    **given,
                )
                body = json.loads(answer.data or b"{}")
                if isinstance(body, dict):
                    return body
                raise self.server.stranger(action)
            except kfp_server_api.ApiException as error:
                failure = self.server.refused(action, error)
                again = error.status in _TRANSIENT if safe else error.status in (429, 503)
            except transport.HTTPError as error:
                failure = self.server.lost(action, error, safe)
                again = (safe or isinstance(error, _NEVER_SENT)) and not isinstance(error, transport.SSLError)
            except OSError as error:
                raise self.server.error(
                    action, f"its token can't be read: {error}", "check the pod's token volume"
                ) from error
            except ValueError as error:
                raise self.server.stranger(action) from error
            except AttributeError as error:
                # The generated client trips over its own exception where a certificate is refused.
                refused = error.__context__
                if not isinstance(refused, kfp_server_api.ApiException):
                    raise
                raise self.server.refused(action, refused) from error
            if not again:
                raise failure
            log.debug("trying again: %s", failure)
        assert failure is not None
        raise failure

    def each(self, action: str, request: Callable[..., Any], items: str, **given: Any) -> Iterator[dict[str, Any]]:
        """Everything a listing has, page by page."""
        token, seen = "", set()
        while True:
            page = self.call(action, request, page_size=PAGE, page_token=token, **given)
            yield from page.get(items) or ()
            token = page.get("next_page_token") or ""
            if not token:
                return
            if token in seen:
                raise self.server.error(
                    action, "its listing comes back to a page it has shown", "report it to who runs it"
                )
            seen.add(token)

    def greet(self) -> None:
        """Ask who is there: version, and whether each team has a namespace.

        Raises:
            KubeflowError: nobody, somebody else, or a version that is too old.
        """
        health = self._health.healthz_service_get_healthz
        try:
            body = self.call("reach it", health, patience=3.0)
        except Refusal as error:
            raise self.server.stranger("reach it", error) if error.status == 404 else error from error
        self.version = str(body.get("tag_name") or body.get("apiServerTagName") or "")
        self.multi_user = bool(body.get("multi_user"))
        number = self.version_number
        if number and number < MINIMUM_VERSION:
            least = ".".join(map(str, MINIMUM_VERSION))
            what = f"it is version {self.version}, {least} or newer is needed (older ones don't expand scheduled dates)"
            raise self.server.error("work with it", what, "upgrade Kubeflow Pipelines")

    @property
    def version_number(self) -> tuple[int, int] | None:
        """Major and minor version; None where the server does not know its own."""
        found = re.match(r"v?(\d+)\.(\d+)", self.version)
        return (int(found[1]), int(found[2])) if found else None

    def link(self, *parts: str) -> str:
        """A page of the UI to open."""
        root = os.environ.get("KF_PIPELINES_UI_ENDPOINT") or self.endpoint
        return "/".join([root.rstrip("/"), "#", *parts])


def connect(access: Access) -> Kubeflow:
    """A connection to Kubeflow Pipelines, after it has said who it is.

    The endpoint is `--host`, `KF_PIPELINES_ENDPOINT`, or in a pod the service in namespace kubeflow. The token is that
    of the variable named, of `KF_PIPELINES_TOKEN`, or the pod's projected one, read anew for each request.

    Raises:
        ConfigError: no endpoint, or arguments that are wrong.
        KubeflowError: nobody answers there, somebody else, or a version that is too old.
    """
    endpoint, token = access.endpoint(), access.token()
    if access.ca and not Path(access.ca).is_file():
        raise ConfigError(f"--ca {access.ca}: there is no such file")
    projected = Path(os.environ.get("KF_PIPELINES_SA_TOKEN_PATH") or POD_TOKEN)
    credentials = ServiceAccountTokenVolumeCredentials(str(projected)) if not token and projected.is_file() else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # "only works with Kubeflow Pipelines 2"
        client = _Client(
            host=endpoint, existing_token=token or None, credentials=credentials, ssl_ca_cert=access.ca or None
        )
    kubeflow = Kubeflow(client, endpoint)
    kubeflow.greet()
    if kubeflow.multi_user:
        kubeflow.server.namespace = access.namespace or pod_namespace()
        if not kubeflow.namespace:
            raise ConfigError(f"{endpoint} gives each team a namespace: name yours by --kfp-namespace")
    elif access.namespace:
        log.info("%s serves one team: --kfp-namespace %s has no meaning there", endpoint, access.namespace)
    return kubeflow


def pod_namespace() -> str:
    """The namespace of the pod this runs in; empty outside of one."""
    file = POD_ACCOUNT / "namespace"
    return file.read_text().strip() if file.is_file() else ""
