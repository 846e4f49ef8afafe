"""The compiled YAML, as Kubeflow will read it."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from google.protobuf import json_format
from kfp.kubernetes import kubernetes_executor_config_pb2
from kfp.pipeline_spec import pipeline_spec_pb2

from limaml.application_files import extend, read_application, shipped_applications
from limaml.config import Application, application_from_parameter, load_application, parse_application
from limaml.errors import ConfigError
from pipelines.compile import KINDS, compile_pipeline, pipeline_name
from pipelines.setup import Setup

IMAGE = "registry.example/limaml@sha256:0000"


class Compiled:
    """One pipeline's YAML: its specification and its platform's part."""

    def __init__(self, kind: str, application: Application, **options: str) -> None:
        self.kind = kind
        self.text = compile_pipeline(kind, application, **options)
        self.spec, self.platform = yaml.safe_load_all(self.text)

    @property
    def executors(self) -> dict[str, Any]:
        return self.spec["deploymentSpec"]["executors"]

    @property
    def pods(self) -> dict[str, Any]:
        return self.platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]

    @property
    def defaults(self) -> dict[str, Any]:
        parameters = self.spec["root"]["inputDefinitions"]["parameters"]
        return {name: each.get("defaultValue") for name, each in parameters.items()}

    def dags(self) -> list[dict[str, Any]]:
        parts = (self.spec["root"], *self.spec["components"].values())
        return [part["dag"]["tasks"] for part in parts if "dag" in part]

    def steps(self) -> dict[str, Any]:
        """Steps by name, those inside groups too."""
        components = self.spec["components"]
        return {
            name: task
            for tasks in self.dags()
            for name, task in tasks.items()
            if "executorLabel" in components[task["componentRef"]["name"]]
        }

    def executor(self, step: str) -> str:
        return self.spec["components"][self.steps()[step]["componentRef"]["name"]]["executorLabel"]


def _ptap(**changes: Any) -> Application:
    return parse_application(extend(read_application("ptap"), changes), "test")


@pytest.fixture(scope="module", params=KINDS)
def plain(request: pytest.FixtureRequest) -> Compiled:
    return Compiled(request.param, load_application("ptap"), image=IMAGE, workspace="s3://bucket/limaml")


@pytest.fixture(scope="module")
def full() -> Compiled:
    step = {
        "cpu": "500m",
        "memory": "24Gi",
        "gpus": 2,
        "gpu_type": "amd.com/gpu",
        "shared_memory": "8Gi",
        "node_selector": {"cloud.example/accelerator": "a100"},
        "tolerations": [{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}],
        "timeout_minutes": 90,
        "retries": 4,
    }
    cluster = {
        "workspace": "s3://bucket/limaml",
        "data": "s3://bucket/logs",
        "image_pull_secrets": ["registry"],
        "image_pull_policy": "Always",
        "environment": {"AWS_REGION": "eu-central-1"},
        "secrets": [
            {"variable": "REDIS_PASSWORD", "secret": "redis", "key": "password"},
            {"variable": "MLFLOW_TRACKING_TOKEN", "secret": "mlflow", "key": "token", "optional": True},
        ],
        "volumes": [{"claim": "logs", "path": "/mnt/logs"}],
        "steps": {"train_theta": step},
    }
    return Compiled("train", _ptap(cluster=cluster))


def _after(tasks: dict[str, Any], name: str) -> set[str]:
    """Every step that must end before this one."""
    direct = set(tasks[name].get("dependentTasks", []))
    return direct.union(*(_after(tasks, other) for other in direct)) if direct else direct


def test_steps_run_the_parameters_image_and_install_nothing(plain: Compiled) -> None:
    assert plain.defaults["image"] == IMAGE
    for label, executor in plain.executors.items():
        assert executor["container"]["image"] == "{{$.inputs.parameters['pipelinechannel--image']}}", label
        assert "pip" not in " ".join(executor["container"]["command"]), label
    for label, step in plain.steps().items():
        assert "componentInputParameter" in step["inputs"]["parameters"]["pipelinechannel--image"], label


def test_a_run_starts_without_typing(plain: Compiled) -> None:
    assert application_from_parameter(plain.defaults["application"]) == load_application("ptap")
    assert plain.defaults["workspace"] == "s3://bucket/limaml"
    asked = {name for name, default in plain.defaults.items() if default is None}
    said_by_hand = {
        "ab_report": {"exposures", "visits", "signups", "start", "end"},
        "backfill": {"first_date", "last_date"},
    }
    assert asked == said_by_hand.get(plain.kind, set())
    if not asked:
        assert plain.defaults["run_date"] == ""


@pytest.mark.parametrize("name", shipped_applications())
def test_the_application_is_the_same_in_few_words(name: str) -> None:
    application = load_application(name)
    text = Setup(application, IMAGE).text
    assert application_from_parameter(text) == application
    assert len(text) < len(application.model_dump_json()) / 2


def test_what_is_a_default_elsewhere_is_said() -> None:
    """A step may ask for what any step would, where its own default is another."""
    application = _ptap(cluster={"steps": {"group_tasks": {"memory": "4Gi"}, "train_theta": {"timeout_minutes": 120}}})
    again = application_from_parameter(Setup(application, IMAGE).text)
    assert again == application
    assert again.cluster.steps.group_tasks.memory == "4Gi"


def test_a_database_of_latin_letters_takes_the_text(plain: Compiled) -> None:
    """MySQL 5.7's default, and that of databases upgraded from it; Kubeflow stores what the escapes mean, not them."""
    assert str([plain.spec, plain.platform]).isascii()


def test_steps_are_named_for_people_and_never_cached(plain: Compiled) -> None:
    titles = [step["taskInfo"]["name"] for step in plain.steps().values()]
    assert len(set(titles)) == len(titles)
    for label, step in plain.steps().items():
        # Kubeflow loses the list of a ParallelFor whose producer has a title.
        assert (step["taskInfo"]["name"] == label) == (label == "plan-backfill"), "a step shows its component's name"
        assert not step.get("cachingOptions", {}).get("enableCache"), label


def test_every_step_is_retried_within_a_limit_that_lets_it(plain: Compiled) -> None:
    """Kubeflow's default of an hour since the first attempt's start would end every later attempt of a long step."""
    for label, step in plain.steps().items():
        policy, pod = step["retryPolicy"], plain.pods[plain.executor(label)]
        assert policy["maxRetryCount"] >= 1, label
        assert (policy["backoffDuration"], policy["backoffFactor"]) == ("30s", 2.0)
        attempts, longest = policy["maxRetryCount"] + 1, int(policy["backoffMaxDuration"].removesuffix("s"))
        needed = attempts * int(pod["activeDeadlineSeconds"])
        assert needed < longest <= needed + 3600 or longest == 1440 * 60, label


def test_a_step_ends_within_the_runs_time_whatever_it_waits_for() -> None:
    """A GPU that no node has: three attempts of twelve hours would be a hang."""
    compiled = Compiled("train", _ptap(cluster={"run_timeout_minutes": 100}))
    for label, step in compiled.steps().items():
        assert int(step["retryPolicy"]["backoffMaxDuration"].removesuffix("s")) <= 100 * 60, label
    assert compiled.pods[compiled.executor("train-theta")]["activeDeadlineSeconds"] == "6000"


def test_every_pod_is_bounded_and_not_root(plain: Compiled) -> None:
    assert set(plain.pods) == set(plain.executors)
    for label, pod in plain.pods.items():
        assert pod["securityContext"] == {"runAsUser": "10001", "runAsGroup": "10001", "runAsNonRoot": True}, label
        assert int(pod["activeDeadlineSeconds"]) > 0
        resources = plain.executors[label]["container"]["resources"]
        assert resources["resourceCpuRequest"], label
        assert resources["resourceMemoryRequest"] == resources["resourceMemoryLimit"], label
        assert "accelerator" not in resources, label
    # Kubeflow 2.16 refuses a pipeline whose platform's part knows more than it does.
    assert set(plain.platform["platforms"]["kubernetes"]) == {"deploymentSpec"}


def test_parameters_are_documented_strings(plain: Compiled) -> None:
    for label, parameter in plain.spec["root"]["inputDefinitions"]["parameters"].items():
        assert parameter["parameterType"] == "STRING", label
        assert parameter["description"], label
    for label, component in plain.spec["components"].items():
        if "executorLabel" in component:
            for parameter, content in component.get("inputDefinitions", {}).get("parameters", {}).items():
                assert content.get("description"), f"{label}.{parameter}"


def test_what_a_step_asks_for_reaches_its_pod(full: Compiled) -> None:
    label = full.executor("train-theta")
    resources, pod = full.executors[label]["container"]["resources"], full.pods[label]
    assert (resources["resourceCpuRequest"], resources["resourceMemoryLimit"]) == ("500m", "24Gi")
    assert resources["accelerator"]["resourceType"] == "amd.com/gpu"
    assert resources["accelerator"]["resourceCount"] == "2"
    assert pod["nodeSelector"] == {"labels": {"cloud.example/accelerator": "a100"}}
    assert pod["tolerations"] == [{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}]
    shared = {"volumeName": "shared-memory", "mountPath": "/dev/shm", "medium": "Memory", "sizeLimit": "8Gi"}
    assert pod["emptyDirMounts"] == [shared]
    assert pod["activeDeadlineSeconds"] == str(90 * 60)
    assert full.steps()["train-theta"]["retryPolicy"]["maxRetryCount"] == 4
    others = [full.executors[name]["container"]["resources"] for name in full.executors if name != label]
    assert not any("accelerator" in each for each in others), "a GPU for a step that did not ask"


def test_what_the_cluster_gives_reaches_every_pod(full: Compiled) -> None:
    assert full.defaults["workspace"] == "s3://bucket/limaml"
    assert full.defaults["data"] == "s3://bucket/logs"
    for label, pod in full.pods.items():
        assert pod["imagePullPolicy"] == "Always"
        assert [each["secretName"] for each in pod["imagePullSecret"]] == ["registry"]
        assert [(each["constant"], each["mountPath"]) for each in pod["pvcMount"]] == [("logs", "/mnt/logs")]
        assert full.executors[label]["container"]["env"] == [{"name": "AWS_REGION", "value": "eu-central-1"}]
        secrets = {each["secretName"]: (each["keyToEnv"], each.get("optional", False)) for each in pod["secretAsEnv"]}
        assert secrets == {
            "redis": ([{"secretKey": "password", "envVar": "REDIS_PASSWORD"}], False),
            "mlflow": ([{"secretKey": "token", "envVar": "MLFLOW_TRACKING_TOKEN"}], True),
        }


def test_kubeflow_knows_every_field(plain: Compiled, full: Compiled) -> None:
    """Its backend reads both documents strictly: an unknown field and the upload is refused."""
    # Classes that protobuf makes at import, where no type checker sees them.
    specs: Any = pipeline_spec_pb2
    pods: Any = kubernetes_executor_config_pb2
    for compiled in (plain, full):
        json_format.ParseDict(compiled.spec, specs.PipelineSpec())
        json_format.ParseDict(compiled.platform, specs.PlatformSpec())
        for pod in compiled.pods.values():
            json_format.ParseDict(pod, pods.KubernetesExecutorConfig())


def test_training_publishes_only_after_the_gate(full: Compiled) -> None:
    tasks = full.steps()
    assert _after(tasks, "push-embeddings") >= {"gate-theta", "generate-embeddings", "train-theta", "validate-data"}
    assert _after(tasks, "gate-theta") >= {"generate-embeddings", "train-theta"}
    splits = {
        task["inputs"]["parameters"]["split"]["runtimeValue"]["constant"]
        for name, task in tasks.items()
        if name.startswith("group-tasks")
    }
    assert splits == {"train", "validation", "test"}


def test_refresh_monitors_what_it_published() -> None:
    tasks = Compiled("refresh", load_application("ptap")).steps()
    assert "train-theta" not in tasks
    assert _after(tasks, "monitor") >= {"push-embeddings", "generate-embeddings", "group-tasks", "validate-data"}


def test_a_backfill_takes_one_date_after_the_other() -> None:
    compiled = Compiled("backfill", load_application("ptap"))
    loops = [task for tasks in compiled.dags() for task in tasks.values() if "parameterIterator" in task]
    assert [loop["iteratorPolicy"]["parallelismLimit"] for loop in loops] == [1]
    steps = compiled.steps()
    assert set(steps) - {"plan-backfill"} == set(Compiled("refresh", load_application("ptap")).steps())


def test_however_it_ends_a_run_is_closed_under_its_own_id(plain: Compiled) -> None:
    root = plain.spec["root"]["dag"]["tasks"]
    closing = root["close-run"]
    assert closing["triggerPolicy"]["strategy"] == "ALL_UPSTREAM_TASKS_COMPLETED"
    assert set(root) == {"close-run", *closing["dependentTasks"]}, "a step outside what is closed"
    for label, step in plain.steps().items():
        assert step["inputs"]["parameters"]["run_id"]["runtimeValue"]["constant"] == "{{$.pipeline_job_uuid}}", label


def test_the_date_is_resolved_once(plain: Compiled) -> None:
    """Past midnight a second step would otherwise work on another day than the first."""
    if plain.kind == "monitor":
        return
    for label, task in plain.steps().items():
        source = task["inputs"]["parameters"].get("run_date")
        if source is not None and label != "validate-data":
            assert source["taskOutputParameter"]["producerTask"] == "validate-data"


def test_the_example_in_the_docs_compiles(tmp_path: Path) -> None:
    page = Path(__file__).parents[2] / "docs" / "pipelines.md"
    (tmp_path / "mine.yaml").write_text(page.read_text().partition("```yaml\n")[2].partition("```")[0])
    compiled = Compiled("train", load_application(str(tmp_path / "mine.yaml")))
    container = compiled.executors[compiled.executor("train-theta")]["container"]
    assert container["resources"]["accelerator"]["resourceCount"] == "2"
    assert compiled.defaults["workspace"] == "s3://ml-limaml/production"


def test_an_unknown_pipeline_is_named() -> None:
    with pytest.raises(ConfigError, match=r"no pipeline 'retrain'; there are train, refresh"):
        compile_pipeline("retrain", load_application("ptap"))


def test_names_in_kubeflow() -> None:
    assert pipeline_name("ab_report", "pclick_user_type") == "pclick-user-type-ab-report"


def test_the_command_writes_the_same_text_every_time(tmp_path: Path) -> None:
    out = tmp_path / "not" / "yet"
    ended = subprocess.run(
        [sys.executable, "-m", "pipelines.compile", "--out", str(out), "--app", "pinvite_both", "--json"],
        env={**os.environ, "LIMAML_IMAGE": IMAGE, "PYTHONHASHSEED": "7"},
        capture_output=True,
        text=True,
        check=True,
    )
    said = json.loads(ended.stdout.splitlines()[-1])
    assert said["image"] == IMAGE
    assert [Path(path).stem for path in said["files"]] == list(KINDS)
    application = load_application("pinvite_both")
    for path in map(Path, said["files"]):
        assert path.read_text() == compile_pipeline(path.stem, application, image=IMAGE)
    assert f"defaultValue: {IMAGE}" in (out / "train.yaml").read_text()
