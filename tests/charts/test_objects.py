"""Every object of every scenario: valid for each Kubernetes, restricted, and naming what is there."""

from collections.abc import Iterator
from functools import cache

import kubernetes_validate
import pytest

from tests.charts.rendering import EVERYTHING, SCENARIOS, Object, objects, pod_labels, pod_specs, scenario

KUBERNETES = [f"1.{minor}" for minor in range(29, 37)]
# Objects whose schemas are not Kubernetes' own: what they must look like is asserted template by template.
CUSTOM = {"InferenceService", "HTTPRoute", "ServiceMonitor", "PrometheusRule", "Pipeline", "PipelineVersion"}


@pytest.fixture(params=SCENARIOS, scope="module")
def found(request: pytest.FixtureRequest) -> list[Object]:
    return objects(scenario(request.param))


@pytest.fixture(scope="module")
def schemas_read_once() -> Iterator[None]:
    """The library reads a version's 5 MB anew for each object."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kubernetes_validate.utils, "schema_contents", cache(kubernetes_validate.utils.schema_contents))
        yield


@pytest.mark.usefixtures("schemas_read_once")
def test_every_object_is_valid_for_every_kubernetes(found: list[Object]) -> None:
    for each in found:
        if each["kind"] not in CUSTOM:
            for version in KUBERNETES:
                kubernetes_validate.validate(each, version, strict=True)


def test_names_are_short_enough_and_taken_once(found: list[Object]) -> None:
    names = [(each["kind"], each["metadata"]["name"]) for each in found]
    assert len(names) == len(set(names))
    assert all(len(name) <= 63 for _, name in names)
    assert all(each["metadata"]["namespace"] == "team" for each in found)


def test_labels_say_whose_they_are(found: list[Object]) -> None:
    for each in found:
        labels = each["metadata"]["labels"]
        assert labels["app.kubernetes.io/instance"] == "limaml"
        assert labels["app.kubernetes.io/name"] == "limaml"
        assert labels["app.kubernetes.io/component"]


def test_pods_keep_to_the_restricted_standard(found: list[Object]) -> None:
    for name, spec in pod_specs(found):
        assert spec["automountServiceAccountToken"] is False, name
        pod = spec["securityContext"]
        assert pod["runAsNonRoot"] is True
        assert pod["runAsUser"] == 10001
        assert pod["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in spec["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }, name
            assert {"cpu", "memory"} <= container["resources"]["requests"].keys(), name
            assert "memory" in container["resources"]["limits"], name
            assert "/tmp" in [mount["mountPath"] for mount in container["volumeMounts"]], name
        assert not any("hostPath" in volume for volume in spec["volumes"])


def test_what_is_mounted_and_named_is_there(found: list[Object]) -> None:
    def made(kind: str) -> set[str]:
        return {each["metadata"]["name"] for each in found if each["kind"] == kind}

    for name, spec in pod_specs(found):
        volumes = {volume["name"]: volume for volume in spec["volumes"]}
        for container in spec["containers"]:
            assert {mount["name"] for mount in container["volumeMounts"]} <= volumes.keys(), name
        for volume in volumes.values():
            if "configMap" in volume and not volume["configMap"].get("optional"):
                assert volume["configMap"]["name"] in made("ConfigMap"), name
            if "persistentVolumeClaim" in volume:
                assert volume["persistentVolumeClaim"]["claimName"] in made("PersistentVolumeClaim"), name
        account = spec.get("serviceAccountName", "default")
        assert account in made("ServiceAccount") | {"default", "default-editor"}, name
    labels = list(pod_labels(found))
    for each in found:
        wanted = {
            "Service": lambda spec: spec["selector"],
            "PodDisruptionBudget": lambda spec: spec["selector"]["matchLabels"],
            "NetworkPolicy": lambda spec: spec["podSelector"]["matchLabels"],
            "Deployment": lambda spec: spec["selector"]["matchLabels"],
        }.get(each["kind"])
        if wanted:
            selector = wanted(each["spec"]).items()
            assert any(selector <= of_pod.items() for of_pod in labels), each["metadata"]["name"]


def test_secrets_are_the_users_or_made_here_and_never_in_an_argument(found: list[Object]) -> None:
    given = {"registry-login", "scorer-token", "kubeflow-token", "redis-login", "mlflow-login", "minio-login"}
    made = {each["metadata"]["name"] for each in found if each["kind"] == "Secret"}
    for _, spec in pod_specs(found):
        for container in spec["containers"]:
            for variable in container.get("env", []):
                if secret := variable.get("valueFrom", {}).get("secretKeyRef"):
                    assert secret["name"] in given | made
                else:
                    assert not any(word in variable["name"] for word in ("PASSWORD", "TOKEN", "SECRET"))


def test_the_fullest_scenario_has_every_template() -> None:
    from tests.charts.rendering import text

    rendered = text(scenario(EVERYTHING))
    assert [path for path, content in rendered.items() if not content.strip() and not path.endswith(".tpl")] == []


def test_no_variable_is_set_twice() -> None:
    """Server-side apply refuses a list with two entries of one name."""
    values = scenario(EVERYTHING) | {"environment": {"HOME": "/mine", "OMP_NUM_THREADS": "2", "AWS_REGION": "mine"}}
    for name, spec in pod_specs(objects(values | {"aws": {"region": "eu-west-1"}})):
        for container in spec["containers"]:
            names = [variable["name"] for variable in container.get("env", [])]
            assert len(names) == len(set(names)), name
