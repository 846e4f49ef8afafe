"""Training and refresh in containers, through Kubeflow's own Docker runner: the manifests of a run without containers.

The scorer then serves what the containers published.
"""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml
from docker.types import Mount
from kfp import components, local

from limaml.manifest import canonical_json
from pipelines.compile import compile_pipeline
from tests.infra.conftest import RESTRICTED, docker
from tests.pipelines.small_chain import DATES, contents, run_locally, simulate_days, small_application

pytestmark = [pytest.mark.docker, pytest.mark.timeout(3600)]


def runnable(kind: str, image: str) -> Any:
    """A compiled pipeline without a pod's resources and environment, and with the image by name.

    Kubeflow's Docker runner takes an image that is a parameter, as it is in ours, for the name of one.
    """
    text = compile_pipeline(kind, small_application(), image=image, workspace="file:///workspace", data="file:///data")
    spec = next(yaml.safe_load_all(text))
    for executor in spec["deploymentSpec"]["executors"].values():
        executor["container"] |= {"image": image}
        for part in ("resources", "env"):
            executor["container"].pop(part, None)
    return components.load_component_from_text(yaml.safe_dump(spec))


def open_to_all(folder: Path) -> Path:
    folder.mkdir(parents=True)
    folder.chmod(0o777)
    return folder


class Chain:
    """Data, and a workspace that containers wrote."""

    def __init__(self, folder: Path, image: str) -> None:
        self.folder = folder
        self.data = folder / "data"
        simulate_days(f"file://{self.data}")
        self.workspace = open_to_all(folder / "workspace")
        runner = local.DockerRunner(
            user="10001",
            read_only=True,
            tmpfs={"/tmp": ""},
            cap_drop=["ALL"],
            security_opt=["no-new-privileges"],
            network_mode="none",
            environment={"OMP_NUM_THREADS": "1"},
            mounts=[
                Mount("/data", str(self.data), "bind", read_only=True),
                Mount("/workspace", str(self.workspace), "bind"),
            ],
        )
        local.init(runner, pipeline_root=str(open_to_all(folder / "outputs")))
        application = canonical_json(small_application().model_dump(mode="json")).decode()
        self.seconds = {}
        for kind, date in DATES.items():
            started = time.monotonic()
            runnable(kind, image)(application=application, run_date=date)
            self.seconds[kind] = time.monotonic() - started


@pytest.fixture(scope="module")
def chain(image: str, tmp_path_factory: pytest.TempPathFactory) -> Chain:
    return Chain(tmp_path_factory.mktemp("chain"), image)


def test_containers_and_this_interpreter_make_the_same(chain: Chain, tmp_path: Path) -> None:
    run_locally(small_application(), f"file://{tmp_path}/workspace", f"file://{chain.data}", tmp_path)
    here = contents(f"file://{tmp_path}/workspace", {f"{tmp_path}/workspace": "WORKSPACE", str(chain.data): "DATA"})
    there = contents(f"file://{chain.workspace}", {"/workspace": "WORKSPACE", "/data": "DATA"})
    assert sorted(there) == sorted(here)
    for place, manifest in here.items():
        assert there[place] == manifest, place
    kinds = {manifest["kind"] for manifest in there.values()}
    assert kinds == {"validated", "task_set", "model", "embeddings", "decision", "monitoring"}
    print(f"in containers: {chain.seconds}")  # noqa: T201


@pytest.fixture
def scorer(chain: Chain, image: str) -> Iterator[str]:
    """URL of a scorer in a restricted container, over the store that the containers' refresh published to."""
    application = chain.folder / "served.yaml"
    application.write_text(yaml.safe_dump(small_application().model_dump(mode="json")))
    started = docker(
        "run", "--detach", *RESTRICTED, "--publish=127.0.0.1::8080",
        f"--volume={chain.workspace}:/workspace", f"--volume={application}:/etc/limaml/small.yaml:ro",
        image, "limaml", "serve", "--app=/etc/limaml/small.yaml", "--workspace=file:///workspace",
        "--host=0.0.0.0", "--port=8080",
    )  # fmt: skip
    container = started.stdout.strip()
    try:
        yield "http://" + docker("port", container, "8080").stdout.split()[0]
    finally:
        docker("rm", "--force", container)


def test_the_scorer_serves_what_was_published(scorer: str) -> None:
    deadline = time.monotonic() + 180
    while (status := answer(f"{scorer}/v2/health/ready")) != 200:
        assert time.monotonic() < deadline, f"not ready after three minutes: {status}"
        time.sleep(0.5)
    metrics = requests.get(f"{scorer}/metrics", timeout=5).text
    assert "limaml_" in metrics


def answer(url: str) -> int:
    """The status of an answer; 0 while nobody listens."""
    try:
        return requests.get(url, timeout=5).status_code
    except requests.ConnectionError:
        return 0
