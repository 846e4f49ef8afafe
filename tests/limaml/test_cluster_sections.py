"""How pipelines run on a cluster, and when: bad values are errors that name the key, and the JSON schema knows them."""

import re
from typing import Any

import pytest

from limaml.application_files import extend, read_application
from limaml.config import Application, load_application, parse_application
from limaml.errors import ConfigError


def ptap(**sections: Any) -> Application:
    return parse_application(extend(read_application("ptap"), sections), "test")


def in_step(**content: Any) -> dict[str, Any]:
    return {"cluster": {"steps": {"train_theta": content}}}


STEP = "cluster.steps.train_theta"
TOLERATION = f"{STEP}.tolerations.0"


@pytest.mark.parametrize(
    ("sections", "path", "said"),
    [
        (in_step(memory="16"), f"{STEP}.memory", "no amount of memory: give a whole number with its unit, as 16Gi"),
        (in_step(memory="1.5Gi"), f"{STEP}.memory", "no amount of memory"),
        (in_step(memory="0Gi"), f"{STEP}.memory", "no amount of memory"),
        (in_step(memory="4k"), f"{STEP}.memory", "no amount of memory"),
        (in_step(memory=16), f"{STEP}.memory", "valid string"),
        (in_step(shared_memory="lots"), f"{STEP}.shared_memory", "no amount of memory"),
        (in_step(cpu="0"), f"{STEP}.cpu", "no amount of CPU: give cores"),
        (in_step(cpu="4Gi"), f"{STEP}.cpu", "no amount of CPU"),
        (in_step(cpu="-1"), f"{STEP}.cpu", "no amount of CPU"),
        (in_step(gpus=-1), f"{STEP}.gpus", "greater than or equal to 0"),
        (in_step(gpus=0.5), f"{STEP}.gpus", "valid integer"),
        (in_step(gpu_type="nvidia"), f"{STEP}.gpu_type", "no resource of a device plug-in, as nvidia.com/gpu"),
        (in_step(gpu="1"), f"{STEP}.gpu", "unknown key; did you mean 'gpus'?"),
        (in_step(timeout_minutes=0), f"{STEP}.timeout_minutes", "greater than or equal to 1"),
        (in_step(retries=-1), f"{STEP}.retries", "greater than or equal to 0"),
        (in_step(retries=11), f"{STEP}.retries", "less than or equal to 10"),
        (in_step(node_selector={"a b": "c"}), f"{STEP}.node_selector.a b", "no key of a label"),
        (in_step(node_selector={"pool": "my pool"}), f"{STEP}.node_selector.pool", "no value of a label"),
        (in_step(tolerations=[{"value": "x"}]), TOLERATION, "key: required, unless operator is Exists"),
        (in_step(tolerations=[{"key": "a", "operator": "Exists", "value": "x"}]), TOLERATION, "looks at no value"),
        (in_step(tolerations=[{"key": "a", "effect": "Never"}]), f"{TOLERATION}.effect", "'NoSchedule'"),
        ({"cluster": {"steps": {"train": {}}}}, "cluster.steps.train", "did you mean 'train_theta'?"),
        ({"cluster": {"service_account": "My Account"}}, "cluster.service_account", "no name in Kubernetes"),
        ({"cluster": {"image_pull_secrets": [""]}}, "cluster.image_pull_secrets.0", "no name in Kubernetes"),
        ({"cluster": {"image_pull_policy": "Sometimes"}}, "cluster.image_pull_policy", "'IfNotPresent'"),
        ({"cluster": {"environment": {"A-B": "c"}}}, "cluster.environment.A-B", "no name of an environment variable"),
        ({"cluster": {"lease_minutes": 1}}, "cluster.lease_minutes", "greater than or equal to 2"),
        ({"cluster": {"run_timeout_minutes": 0}}, "cluster.run_timeout_minutes", "greater than or equal to 1"),
        (
            {"schedule": {"refresh": {"cron": "30 2 * * *"}}},
            "schedule.refresh.cron",
            "has 5 fields, Kubeflow's has six",
        ),
        ({"schedule": {"refresh": {}}}, "schedule.refresh.cron", "required"),
        ({"schedule": {"backfill": {"cron": "@daily"}}}, "schedule.backfill", "unknown key"),
    ],
)
def test_a_bad_value_is_an_error_that_names_its_key(sections: dict[str, Any], path: str, said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        ptap(**sections)
    lines = [line for line in str(refused.value).splitlines() if line.strip().startswith(path)]
    assert any(said in line for line in lines), refused.value


@pytest.mark.parametrize("path", ["data", "/", "/..", "/a/../b", "/usr/lib/x", "/dev/shm", "/tmp", "/a:b"])
def test_a_volume_lies_where_nothing_else_does(path: str) -> None:
    with pytest.raises(ConfigError, match=r"cluster\.volumes\.0\.path"):
        ptap(cluster={"volumes": [{"claim": "data", "path": path}]})


def test_a_volume_path_is_spelled_one_way() -> None:
    volumes = [{"claim": "data", "path": "/mnt//data/"}]
    assert ptap(cluster={"volumes": volumes}).cluster.volumes[0].path == "/mnt/data"
    with pytest.raises(ConfigError, match="/mnt/data is mounted twice"):
        ptap(cluster={"volumes": [*volumes, {"claim": "other", "path": "/mnt/data"}]})


def test_a_variable_is_set_once() -> None:
    secret = {"variable": "LOGIN", "secret": "s", "key": "k"}
    with pytest.raises(ConfigError, match="environment and secrets set LOGIN twice"):
        ptap(cluster={"environment": {"LOGIN": "x"}, "secrets": [secret]})
    with pytest.raises(ConfigError, match="environment and secrets set LOGIN twice"):
        ptap(cluster={"secrets": [secret, secret]})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("LIMAML_REDIS_PASSWORD", "hush-hush"),
        ("AWS_SECRET_ACCESS_KEY", "hush-hush"),
        ("Api_Key", "hush-hush"),
        ("MLFLOW_TRACKING_URI", "http://me:hush-hush@mlflow:5000"),
    ],
)
def test_a_secrets_value_is_refused_and_not_printed(name: str, value: str) -> None:
    with pytest.raises(ConfigError, match=rf"environment\.{name} looks like a secret; name one") as refused:
        ptap(cluster={"environment": {name: value}})
    assert "hush" not in str(refused.value)
    ptap(
        cluster={"environment": {"AWS_WEB_IDENTITY_TOKEN_FILE": "/var/run/token", "AWS_ENDPOINT_URL": "http://s3:9000"}}
    )


def test_a_schedule_is_kept_in_one_spelling() -> None:
    schedule = ptap(schedule={"refresh": {"cron": "0 30 2 ? * MON-FRI"}, "monitor": {"cron": "@hourly"}}).schedule
    assert schedule.refresh is not None
    assert schedule.monitor is not None
    assert (schedule.refresh.cron, schedule.monitor.cron) == ("0 30 2 * * 1-5", "0 0 * * * *")
    assert schedule.train is None


@pytest.mark.parametrize("amount", ["2", "0.5", "1.25", "500m", "16"])
def test_amounts_of_cpu(amount: str) -> None:
    assert ptap(**in_step(cpu=amount)).cluster.steps.train_theta.cpu == amount


@pytest.mark.parametrize("amount", ["16Gi", "512Mi", "4G", "900M", "1Ti"])
def test_amounts_of_memory(amount: str) -> None:
    assert ptap(**in_step(memory=amount)).cluster.steps.train_theta.memory == amount


def test_the_json_schema_says_the_same() -> None:
    """Helm checks values by it before Python sees them."""
    definitions = Application.model_json_schema()["$defs"]

    def accepts(section: str, key: str, value: str) -> bool:
        said = definitions[section]["properties"][key]
        pattern = said.get("pattern") or said["anyOf"][0]["pattern"]
        return re.search(pattern, value) is not None

    for section, key, good, bad in (
        ("StepResources", "memory", "16Gi", "16"),
        ("StepResources", "shared_memory", "8Gi", "8"),
        ("StepResources", "cpu", "500m", "0"),
        ("StepResources", "gpu_type", "nvidia.com/gpu", "nvidia"),
        ("SecretVariable", "secret", "redis", "Redis"),
        ("SecretVariable", "variable", "TOKEN", "A-B"),
        ("Cluster", "service_account", "", "My Account"),
        ("Timetable", "cron", "0 0 6 ? * MON", "30 2 * * *"),
        ("Timetable", "cron", "@daily", "daily"),
    ):
        assert accepts(section, key, good), (section, key)
        assert not accepts(section, key, bad), (section, key)


def test_no_shipped_application_needs_a_cluster() -> None:
    assert load_application("ptap").cluster.workspace == ""
