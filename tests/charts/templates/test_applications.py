"""templates/applications: files that the package loads, with what the chart knows of the cluster in them."""

from pathlib import Path

import pytest

from limaml.config import Application, load_application
from tests.charts.rendering import SCENARIOS, objects, one, scenario


def loaded(values: dict, tmp_path: Path, template: str = "applications/configmap") -> dict[str, Application]:
    (files,) = objects(values, template)
    for name, content in files["data"].items():
        (tmp_path / name).write_text(content)
    return {name.removesuffix(".yaml"): load_application(str(tmp_path / name)) for name in files["data"]}


@pytest.mark.parametrize("name", SCENARIOS)
def test_every_scenarios_files_load(name: str, tmp_path: Path) -> None:
    for key, application in loaded(scenario(name), tmp_path).items():
        assert application.name == key
        assert application.cluster.workspace


def test_a_whole_application_survives_the_chart(tmp_path: Path) -> None:
    names = ["ptap", "kuairand_strong_user_type", "pinvite_both"]
    whole = {name: {"config": load_application(name).model_dump(mode="json")} for name in names}
    values = {"applications": whole, "scorer": {"readyWithoutRelease": False}}
    for name, application in loaded(values, tmp_path).items():
        given = load_application(name).model_dump(exclude={"cluster"})
        assert application.model_dump(exclude={"cluster"}) == given


def test_the_cluster_is_filled_in_under_what_the_application_says(tmp_path: Path) -> None:
    values = scenario("trial")
    values["applications"]["ptap"]["config"]["cluster"] = {
        "environment": {"MLFLOW_TRACKING_URI": "http://mine"},
        "secrets": [{"variable": "MORE", "secret": "more", "key": "key"}],
        "volumes": [{"claim": "cache", "path": "/cache"}],
    }
    values["image"] = {"pullPolicy": "Never", "pullSecrets": ["login"]}
    application = loaded(values, tmp_path)["ptap"]
    cluster = application.cluster
    assert cluster.workspace == "file:///var/lib/limaml"
    assert cluster.environment == {"MLFLOW_TRACKING_URI": "http://mine"}
    assert (cluster.image_pull_policy, cluster.image_pull_secrets) == ("Never", ("login",))
    secrets = {each.variable: each.secret for each in cluster.secrets}
    assert secrets["LIMAML_REDIS_PASSWORD"] == "limaml-redis"
    assert secrets["MLFLOW_TRACKING_PASSWORD"] == "limaml-mlflow"
    assert secrets["MORE"] == "more"
    assert [(each.claim, each.path) for each in cluster.volumes] == [
        ("limaml-workspace", "/var/lib/limaml"),
        ("cache", "/cache"),
    ]
    assert application.store.url == "redis://limaml-redis.team.svc:6379/0"
    assert application.serve.ready_without_release is True


def test_buckets_need_no_volume_and_logins_are_the_users(tmp_path: Path) -> None:
    application = loaded(scenario("kserve"), tmp_path)["pclick_user"]
    assert application.cluster.volumes == ()
    assert application.cluster.environment["AWS_ENDPOINT_URL"] == "http://minio.storage:9000"
    assert {each.variable for each in application.cluster.secrets} == {
        "LIMAML_REDIS_USERNAME",
        "LIMAML_REDIS_PASSWORD",
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
    }


def test_steps_run_as_the_account_that_is_made_or_named(tmp_path: Path) -> None:
    accounts = {name: loaded(scenario(name), tmp_path) for name in ("aws", "pipelines-only", "default")}
    assert accounts["aws"]["pclick_user"].cluster.service_account == "limaml-runs"
    assert accounts["pipelines-only"]["ptap"].cluster.service_account == "default-editor"
    assert accounts["default"]["ptap"].cluster.service_account == ""


def test_a_disabled_application_is_kept_for_its_removal(tmp_path: Path) -> None:
    assert "pinvite_inviter" not in loaded(scenario("everything"), tmp_path)
    assert list(loaded(scenario("everything"), tmp_path, "applications/removed")) == ["pinvite_inviter"]
    assert objects({}, "applications/removed") == []


def test_one_may_extend_another_of_the_chart(tmp_path: Path) -> None:
    values = {"applications": {"mine": {"config": {"extends": "./ptap.yaml", "title": "Mine"}}}}
    applications = loaded(values, tmp_path)
    assert (applications["mine"].title, applications["mine"].task) == ("Mine", applications["ptap"].task)


def test_no_application_at_all() -> None:
    found = objects({"applications": {"ptap": None}})
    assert {each["kind"] for each in found} & {"Deployment", "PersistentVolumeClaim"} == set()
    assert "data" not in one(found, "ConfigMap")
