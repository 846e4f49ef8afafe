"""templates/trial: the servers and the data of a first look, started here as the pods start them."""

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import redis
import requests

from limaml.data.layout import days_of
from limaml.training.registry import CHAMPION, Registry
from tests.charts.rendering import Object, objects, one, scenario
from tests.limaml.serve.conftest import until

ROOT = Path(__file__).resolve().parents[3]
VALUES = scenario("trial")
PASSWORD = 'open "sesame" \\o/'


def container(template: str) -> Object:
    found = objects(VALUES, template)
    kind = "Job" if "job" in template else "Deployment"
    (only,) = one(found, kind)["spec"]["template"]["spec"]["containers"]
    return only


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def test_made_secrets_differ_each_time_and_given_ones_are_used() -> None:
    found = [objects(VALUES | {"commonLabels": {"a": label}}, "trial/redis") for label in "bc"]
    assert len({one(each, "Secret")["data"]["password"] for each in found}) == 2
    for server in ("redis", "mlflow"):
        found = objects({"trial": {server: {"enabled": True, "existingSecret": "mine"}}}, f"trial/{server}")
        assert "Secret" not in {each["kind"] for each in found}
        pod = one(found, "Deployment")["spec"]["template"]["spec"]["containers"][0]
        secrets = {each["valueFrom"]["secretKeyRef"]["name"] for each in pod["env"] if "valueFrom" in each}
        assert secrets == {"mine"}


def test_one_writer_on_a_volume() -> None:
    for server in ("redis", "mlflow"):
        deployment = one(objects(VALUES, f"trial/{server}"), "Deployment")
        assert deployment["spec"]["strategy"] == {"type": "Recreate"}
        assert deployment["spec"]["replicas"] == 1


def test_a_store_or_tracking_server_elsewhere_stands_over_the_trials() -> None:
    (files,) = objects(
        VALUES | {"mlflow": {"trackingUri": "http://mine"}, "store": {"url": "dynamodb://t"}}, "applications/"
    )
    assert "http://mine" in files["data"]["ptap.yaml"]
    assert "dynamodb://t" in files["data"]["ptap.yaml"]
    assert "limaml-redis" not in files["data"]["ptap.yaml"]


@pytest.mark.skipif(shutil.which("redis-server") is None, reason="redis-server is not installed")
def test_redis_asks_for_the_password(tmp_path: Path) -> None:
    pod = container("trial/redis")
    port = free_port()
    script = pod["args"][0].replace("/tmp/redis.conf", str(tmp_path / "redis.conf"))
    variables = {"SERVER": "redis-server", "PASSWORD": PASSWORD, "DATA": str(tmp_path), "PORT": str(port)}
    with subprocess.Popen([*pod["command"], script], env=os.environ | variables, stdout=subprocess.DEVNULL) as server:
        try:
            client = redis.Redis(port=port, password=PASSWORD)
            until(lambda: _answers(port))
            until(client.ping)
            assert client.config_get("maxmemory-policy")["maxmemory-policy"] == "noeviction"
            with pytest.raises(redis.AuthenticationError):
                redis.Redis(port=port).ping()
            command = (
                Path(f"/proc/{server.pid}/cmdline").read_bytes() + Path(f"/proc/{server.pid}/environ").read_bytes()
            )
            assert b"requirepass" not in command
            assert oct((tmp_path / "redis.conf").stat().st_mode)[-3:] == "600"
        finally:
            server.terminate()


@pytest.mark.heavy
def test_simulated_data_ends_after_today_and_is_made_once(tmp_path: Path) -> None:
    """The Job's own script, on a small world."""
    pod = container("trial/data-job")
    assert pod["args"][1:] == ["2500", "17", "14", "/etc/limaml/applications/ptap.yaml"]
    application = tmp_path / "ptap.yaml"
    application.write_text(f"{{extends: ptap, cluster: {{workspace: 'file://{tmp_path}/work'}}}}")
    command = [sys.executable, "-c", pod["args"][0], "60", "3", "2", str(application)]
    for said in ("interactions from", "holds 5 days already"):
        ran = subprocess.run(
            command, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=True
        )
        assert said in ran.stdout
    assert len(days_of(f"file://{tmp_path}/work/ptap/data")) == 5


@pytest.mark.heavy
def test_mlflow_asks_for_a_login_answers_to_its_services_names_and_keeps_models(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = objects(VALUES, "trial/mlflow")
    pod = container("trial/mlflow")
    port = free_port()
    settings = tmp_path / "basic_auth.ini"
    settings.write_text(one(found, "ConfigMap")["data"]["basic_auth.ini"].replace("/var/lib/mlflow", str(tmp_path)))
    replaced = {"/var/lib/mlflow": str(tmp_path), "--port=5000": f"--port={port}"}
    replaced["localhost:5000"] = f"localhost:5000,localhost:{port}"
    arguments = pod["args"]
    for old, new in replaced.items():
        arguments = [each.replace(old, new) for each in arguments]
    variables = {each["name"]: each.get("value", "twelve-letters-or-more") for each in pod["env"]}
    variables |= {"MLFLOW_AUTH_CONFIG_PATH": str(settings), "MLFLOW_AUTH_ADMIN_USERNAME": "limaml"}
    command = [str(Path(sys.executable).parent / "mlflow"), *arguments]
    with subprocess.Popen(command, env=os.environ | variables, cwd=tmp_path, stderr=subprocess.DEVNULL) as server:
        try:
            until(lambda: _answers(port), 120)
            until(lambda: requests.get(f"http://127.0.0.1:{port}/health", timeout=5).ok, 60)
            login = ("limaml", "twelve-letters-or-more")
            for host in ("limaml-mlflow.team.svc:5000", "limaml-mlflow:5000", "localhost:5000"):
                assert _status(port, host) == 401
                assert _status(port, host, login) == 200
            assert _status(port, "elsewhere", login) == 403
            monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", login[0])
            monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", login[1])
            _keeps_models(Registry(f"http://localhost:{port}", "ptap"))
        finally:
            server.terminate()


def _keeps_models(registry: Registry) -> None:
    """Those on a volume as well, which a server refuses as a path."""
    registry.log_training("fingerprint", "run", {"alpha": 1}, {"loss": [1.0]}, {"page.html": "<p>"}, {})
    run = registry.run_of("fingerprint")
    for version, uri in (("v1", "file:///var/lib/limaml/ptap/model/v1"), ("v2", "s3://bucket/ptap/model/v2")):
        registered = registry.register(version, uri, run)
        registry.decide(registered, True, {"auc": 0.7}, "promoted")
        champion = registry.by_alias(CHAMPION)
        assert champion is not None
        assert (champion.model_version, champion.uri) == (version, uri)


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _status(port: int, host: str, login: tuple[str, str] | None = None) -> int:
    url = f"http://127.0.0.1:{port}/api/2.0/mlflow/experiments/search?max_results=1"
    return requests.get(url, headers={"Host": host}, auth=login, timeout=10).status_code
