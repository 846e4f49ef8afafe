"""Kubernetes' API in this process, as far as the doctor reads it, and a kubeconfig that leads there."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import yaml

GROUPS = {
    "argoproj.io": ["Workflow", "CronWorkflow"],
    "kubeflow.org": ["ScheduledWorkflow"],
    "trainer.kubeflow.org": ["TrainJob"],
    "sparkoperator.k8s.io": ["SparkApplication"],
    "serving.kserve.io": ["InferenceService"],
    "monitoring.coreos.com": ["ServiceMonitor", "PrometheusRule"],
}


def node(name: str, labels: dict[str, str] | None = None, taints: tuple[str, ...] = (), **allocatable: str) -> dict:
    """A node; `gpu` is an NVIDIA one's count, a taint is key=value:effect."""
    has = {"cpu": "8", "memory": "32Gi"} | allocatable
    if "gpu" in has:
        has["nvidia.com/gpu"] = has.pop("gpu")
    split = [(*taint.partition("=")[::2],) for taint in taints]
    said = [{"key": key, "value": rest.split(":")[0], "effect": rest.split(":")[1]} for key, rest in split]
    return {
        "metadata": {"name": name, "labels": labels or {}},
        "spec": {"taints": said},
        "status": {"allocatable": has},
    }


class FakeKubernetes:
    """Objects by path, and statuses that are answered instead."""

    def __init__(self) -> None:
        self.objects: dict[str, dict[str, Any]] = {"/version": {"gitVersion": "v1.36.0"}}
        self.statuses: dict[str, int] = {}
        self.seconds = 0.0
        self.nodes: list[dict[str, Any]] = [node("one"), node("two"), node("three")]
        self.paths: list[str] = []
        for group, kinds in GROUPS.items():
            self.objects[f"/apis/{group}"] = {"versions": [{"groupVersion": f"{group}/v1"}]}
            self.objects[f"/apis/{group}/v1"] = {"resources": [{"kind": kind} for kind in kinds]}

    def put(self, kind: str, name: str, namespace: str = "team", **fields: Any) -> None:
        """An object of the core API."""
        self.objects[f"/api/v1/namespaces/{namespace}/{kind}/{name}"] = {"metadata": {"name": name}} | fields

    def answer(self, path: str, query: dict[str, list[str]]) -> tuple[int, Any]:
        """Status and body; nodes come two a page."""
        self.paths.append(path)
        time.sleep(self.seconds)
        for part, status in self.statuses.items():
            if part in path:
                return status, {"message": f'User "me" cannot get {path}'}
        if path == "/api/v1/nodes":
            start = int(query.get("continue", ["0"])[0])
            more = str(start + 2) if len(self.nodes) > start + 2 else ""
            return 200, {"metadata": {"continue": more}, "items": self.nodes[start : start + 2]}
        return (200, self.objects[path]) if path in self.objects else (404, {"message": "not found"})

    @contextmanager
    def running(self, folder: Path) -> Iterator[Path]:
        """Serve while the block runs; the path of a kubeconfig."""
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                parts = urlsplit(self.path)
                status, body = fake.answer(parts.path, parse_qs(parts.query))
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.end_headers()
                with suppress(BrokenPipeError, ConnectionResetError):
                    self.wfile.write(json.dumps(body).encode())

            def log_message(self, format: str, *args: Any) -> None:
                """Quiet."""

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        config = folder / "kubeconfig"
        cluster = {"name": "here", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "here",
            "clusters": [cluster],
            "users": [{"name": "me", "user": {"token": "t"}}],
            "contexts": [{"name": "here", "context": {"cluster": "here", "user": "me"}}],
        }
        config.write_text(yaml.safe_dump(content))
        try:
            yield config
        finally:
            server.shutdown()
            server.server_close()
