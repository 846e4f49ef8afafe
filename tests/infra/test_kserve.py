"""The manifest says what the service understands: its options, paths, port and settings."""

from pathlib import Path

import pytest
import typer
import yaml
from fastapi.routing import APIRoute

from limaml.config import load_application
from limaml.online.store import open_store
from limaml.serve.app import create_app
from limaml.serve.server import FINISH_SECONDS
from pipelines.cli import build

MANIFEST = Path(__file__).resolve().parents[2] / "infra/kserve/inference_service.yaml"


@pytest.fixture(scope="module")
def documents() -> list[dict]:
    return list(yaml.safe_load_all(MANIFEST.read_text()))


def test_the_application_is_valid_and_ends_in_time(documents: list[dict], tmp_path: Path) -> None:
    config, service = documents
    (name, content), *_ = config["data"].items()
    path = tmp_path / name
    path.write_text(content)
    application = load_application(str(path))
    predictor = service["spec"]["predictor"]
    assert predictor["terminationGracePeriodSeconds"] > application.serve.drain_seconds + FINISH_SECONDS
    container = predictor["containers"][0]
    assert application.serve.token_variable in [each["name"] for each in container["env"]]
    assert f"--app=/etc/limaml/{name}" in container["args"]
    assert predictor["volumes"][0]["configMap"]["name"] == config["metadata"]["name"]


def test_the_command_and_its_paths_exist(documents: list[dict], tmp_path: Path) -> None:
    predictor = documents[1]["spec"]["predictor"]
    (container,) = predictor["containers"]
    command, *arguments = container["args"]
    parser = typer.main.get_command(build()).commands[command]  # type: ignore[attr-defined]
    parsed = parser.make_context(command, list(arguments)).params
    assert (container["command"], parsed["host"]) == (["limaml"], "0.0.0.0")
    (port,) = container["ports"]
    app = create_app(open_store(f"lmdb://{tmp_path}/store", "pclick_user"), load_application("pclick_user"))
    paths = {route.path for route in app.routes if isinstance(route, APIRoute)}
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        asked = container[probe]["httpGet"]
        assert asked["path"] in paths
        assert asked["port"] == port["containerPort"] == parsed["port"]
    annotations = documents[1]["metadata"]["annotations"]
    assert annotations["prometheus.kserve.io/path"] in paths
    assert annotations["prometheus.kserve.io/port"] == str(parsed["port"])


def test_least_privilege(documents: list[dict]) -> None:
    predictor = documents[1]["spec"]["predictor"]
    security = predictor["containers"][0]["securityContext"]
    assert predictor["securityContext"]["runAsNonRoot"] is True
    assert predictor["automountServiceAccountToken"] is False
    assert security == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert "@sha256:" in predictor["containers"][0]["image"]
