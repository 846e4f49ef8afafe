"""What went wrong with Kubeflow Pipelines' API, in words: the endpoint, what happened, what to do."""

import json
import re
from dataclasses import dataclass

import kfp_server_api
from urllib3 import exceptions as transport

from limaml.errors import KubeflowError

CONNECT_SECONDS, ANSWER_SECONDS = 5, 30


class Refusal(KubeflowError):
    """The server answered, but with an error: `status` is HTTP's."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


@dataclass
class Server:
    """Who is asked: the endpoint, and where teams have their own, the namespace."""

    endpoint: str
    namespace: str | None = None

    def refused(self, action: str, error: kfp_server_api.ApiException) -> KubeflowError:
        """It answered, with an error."""
        status = int(error.status or 0)
        said = _message(error)
        if status == 0:
            return self.error(action, f"its certificate is not trusted: {said}", "give its CA's file by --ca")
        if 300 <= status < 400:
            what, do = "it sent us to a log-in page", "give a token by --token-variable"
        elif status == 401:
            what, do = f"unauthorized: {said}", "give a valid token by --token-variable, or run inside the cluster"
        elif status == 403:
            where = f" in namespace {self.namespace}" if self.namespace else ""
            what, do = (
                f"forbidden: {said}",
                f"give this account the role kubeflow-edit{where}, or another --kfp-namespace",
            )
        elif status == 404:
            what, do = f"not found: {said}", "check the name with `limaml pipelines list`, and that --host is its API"
        elif status >= 500 or status == 429:
            what, do = f"it fails with {status}: {said}", "look at the log of deployment ml-pipeline, and try again"
        else:
            what, do = f"it refuses with {status}: {said}", "correct what it names"
        return Refusal(str(self.error(action, what, do)), status)

    def lost(self, action: str, error: transport.HTTPError, safe: bool) -> KubeflowError:
        """It did not answer; unless doing it twice is `safe`, what was sent may have been done."""
        unsure = "" if safe else "; whether it was done is not known: look before you repeat it"
        match error:
            case transport.SSLError():
                return self.error(action, f"its certificate is not trusted: {error}", "give its CA's file by --ca")
            case transport.NameResolutionError():
                return self.error(action, "there is no such host", "check --host and KF_PIPELINES_ENDPOINT")
            case transport.NewConnectionError():
                do = "check --host and that it runs (`kubectl -n kubeflow get pods`), or port-forward again"
                return self.error(action, "nothing listens there", do)
            case transport.ConnectTimeoutError():
                what = f"no connection within {CONNECT_SECONDS} s"
                return self.error(action, what, "check --host, VPN and network policies")
            case transport.ReadTimeoutError():
                what = f"no answer within {ANSWER_SECONDS} s{unsure}"
                return self.error(action, what, "look at the log of deployment ml-pipeline, and try again")
        return self.error(action, f"the connection was lost ({error}){unsure}", "try again when the network is back")

    def stranger(self, action: str, error: Refusal | None = None) -> KubeflowError:
        """It answered, but not as Kubeflow Pipelines does."""
        what = "there is no Kubeflow Pipelines 2.x: something else answers" + (f" ({error.status})" if error else "")
        return self.error(action, what, "give the URL of its API by --host, as `svc/ml-pipeline` port 8888")

    def error(self, action: str, what: str, do: str) -> KubeflowError:
        """What happened, and what to do."""
        return KubeflowError(f"Kubeflow Pipelines at {self.endpoint}: can't {action}: {what}; {do}")


def _message(error: kfp_server_api.ApiException) -> str:
    """What the server says, in one line; its answer is JSON, text, or a page of HTML."""
    text = str(error.body or error.reason or "").strip()
    try:
        body = json.loads(text)
        # What is the matter; `message` says which calls it came through first, sometimes the same twice over.
        whole = str(body.get("message") or body.get("error_message") or body.get("error") or text)
        about = [each["message"] for each in body.get("details") or () if each.get("message", "\n") in whole]
        text = str((about or [whole])[0])
    except (ValueError, AttributeError):
        text = re.sub(r"<[^>]*>", " ", text)
    return " ".join(text.split())[:500] or "no reason given"
