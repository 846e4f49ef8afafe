"""templates/scorer: what serves, how it is reached, and that it says what the service understands."""

from pathlib import Path
from typing import Any

import pytest
import typer
from fastapi.routing import APIRoute

from limaml.config import load_application
from limaml.online.store import open_store
from limaml.serve.app import create_app
from limaml.serve.server import FINISH_SECONDS
from pipelines.cli import build
from tests.charts.rendering import Object, objects, one, scenario

DEPLOYMENT = "scorer/deployment"


def with_scorer(**changes: Any) -> dict[str, Any]:
    return {"scorer": changes}


def containers(found: list[Object], kind: str = "Deployment") -> Object:
    spec = one(found, kind)["spec"]
    pod = spec["predictor"] if kind == "InferenceService" else spec["template"]["spec"]
    (container,) = pod["containers"]
    return container


@pytest.mark.parametrize(
    ("values", "template", "kind"),
    [({}, DEPLOYMENT, "Deployment"), (scenario("kserve"), "scorer/inferenceservice", "InferenceService")],
)
def test_the_command_and_its_paths_exist(values: dict, template: str, kind: str, tmp_path: Path) -> None:
    container = containers(objects(values, template), kind)
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


def test_kserve_reads_the_metrics_that_are_there() -> None:
    (service,) = objects(scenario("kserve"), "scorer/inferenceservice")
    annotations = service["metadata"]["annotations"]
    assert service["apiVersion"] == "serving.kserve.io/v1beta1"
    assert annotations["serving.kserve.io/deploymentMode"] == "RawDeployment"
    assert (annotations["prometheus.kserve.io/path"], annotations["prometheus.kserve.io/port"]) == ("/metrics", "8080")
    predictor = service["spec"]["predictor"]
    assert (predictor["minReplicas"], predictor["maxReplicas"], predictor["scaleMetric"]) == (2, 8, "cpu")
    assert predictor["containers"][0]["name"] == "kserve-container"
    assert objects(scenario("kserve"), DEPLOYMENT) == objects(scenario("kserve"), "scorer/service.yaml") == []


@pytest.mark.parametrize(("drain", "grace"), [(None, 60), (10, 60), (25.5, 61), (120, 155)])
def test_the_end_leaves_time_for_draining_and_what_is_under_way(drain: float | None, grace: int) -> None:
    config = {"extends": "ptap"} | ({"serve": {"drain_seconds": drain}} if drain else {})
    (deployment,) = objects({"applications": {"ptap": {"config": config}}}, DEPLOYMENT)
    assert deployment["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] == grace
    assert grace > (drain or 5) + FINISH_SECONDS


def test_one_deployment_an_application_and_an_applications_own_settings() -> None:
    found = objects(scenario("aws"), DEPLOYMENT)
    replicas = {each["metadata"]["name"]: each["spec"]["replicas"] for each in found}
    assert replicas == {"limaml-scorer-pclick-user": 2, "limaml-scorer-pinvite-invitee": 4}
    assert all("@sha256:1111" in each["spec"]["template"]["spec"]["containers"][0]["image"] for each in found)


def test_autoscaling_takes_replicas_over() -> None:
    values = with_scorer(autoscaling={"enabled": True, "maxReplicas": 5})
    (deployment,) = objects(values, DEPLOYMENT)
    assert "replicas" not in deployment["spec"]
    (scaler,) = objects(values, "scorer/horizontalpodautoscaler")
    assert scaler["spec"]["scaleTargetRef"]["name"] == deployment["metadata"]["name"]
    assert (scaler["spec"]["minReplicas"], scaler["spec"]["maxReplicas"]) == (2, 5)
    assert objects({}, "scorer/horizontalpodautoscaler") == []


def test_only_a_changed_application_restarts_its_scorer() -> None:
    def sums(config: dict) -> dict[str, str]:
        values = {"applications": {"ptap": {"config": config}, "pclick_user": {"config": {"extends": "pclick_user"}}}}
        found = objects(values, DEPLOYMENT)
        return {
            each["metadata"]["name"]: each["spec"]["template"]["metadata"]["annotations"]["limaml.io/application-sum"]
            for each in found
        }

    before, after = sums({"extends": "ptap"}), sums({"extends": "ptap", "serve": {"poll_seconds": 5}})
    assert before["limaml-scorer-pclick-user"] == after["limaml-scorer-pclick-user"]
    assert before["limaml-scorer-ptap"] != after["limaml-scorer-ptap"]


def test_a_token_is_asked_for_where_there_is_a_secret() -> None:
    values = with_scorer(token={"existingSecret": "callers", "key": "bearer"})
    variables = {each["name"]: each for each in containers(objects(values, DEPLOYMENT))["env"]}
    secret = variables["LIMAML_SCORER_TOKEN"]["valueFrom"]["secretKeyRef"]
    assert secret == {"name": "callers", "key": "bearer"}
    (files,) = objects(values, "applications/configmap")
    assert "token_variable: LIMAML_SCORER_TOKEN" in files["data"]["ptap.yaml"]
    assert "token_variable" not in objects({}, "applications/configmap")[0]["data"]["ptap.yaml"]


def test_the_workspace_is_read_only_unless_exposures_go_there() -> None:
    def mounts(url: str) -> dict[str, dict]:
        config = {"extends": "ptap"} | ({"experiment": {"exposures": {"url": url}}} if url else {})
        found = objects({"applications": {"ptap": {"config": config}}}, DEPLOYMENT)
        return {each["mountPath"]: each for each in containers(found)["volumeMounts"]}

    assert mounts("")["/var/lib/limaml"]["readOnly"] is True
    assert "/var/spool/limaml" not in mounts("")
    assert mounts("file:///var/lib/limaml/exposures")["/var/lib/limaml"]["readOnly"] is False
    assert mounts("s3://bucket/exposures")["/var/lib/limaml"]["readOnly"] is True
    assert "/var/spool/limaml" in mounts("s3://bucket/exposures")


def test_service_and_budget_are_of_the_deployments_pods() -> None:
    (deployment,) = objects({}, DEPLOYMENT)
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    (service,) = objects({}, "scorer/service.yaml")
    assert service["spec"]["selector"].items() <= labels.items()
    assert service["spec"]["ports"][0]["targetPort"] == "http"
    (budget,) = objects({}, "scorer/poddisruptionbudget")
    assert budget["spec"]["selector"]["matchLabels"].items() <= labels.items()
    assert budget["spec"]["maxUnavailable"] == 1
    assert objects(with_scorer(disruptionBudget={"enabled": False}), "scorer/poddisruptionbudget") == []


def test_only_scores_are_reached_from_outside() -> None:
    found = objects(scenario("everything"), "scorer/ingress")
    rule = next(each for each in found if each["metadata"]["name"].endswith("ptap"))["spec"]["rules"][0]
    assert rule["host"] == "ptap.scores.example"
    assert [path["path"] for path in rule["http"]["paths"]] == ["/v1", "/v2"]
    kserve = next(each for each in found if each["metadata"]["name"].endswith("pclick-user"))
    backend = kserve["spec"]["rules"][0]["http"]["paths"][0]["backend"]["service"]
    assert backend == {"name": "limaml-scorer-pclick-user-predictor", "port": {"number": 80}}


def test_routes() -> None:
    (route,) = objects(scenario("serving-only"), "scorer/httproute")
    assert route["apiVersion"] == "gateway.networking.k8s.io/v1"
    assert route["spec"]["hostnames"] == ["ptap.scores.example"]
    assert route["spec"]["parentRefs"] == [{"name": "public", "namespace": "gateway"}]
    (rule,) = route["spec"]["rules"]
    assert [match["path"]["value"] for match in rule["matches"]] == ["/v1", "/v2"]
    assert rule["backendRefs"] == [{"name": "limaml-scorer-ptap", "port": 80}]


def test_the_network_lets_in_this_namespace_and_who_is_named() -> None:
    (policy,) = objects(scenario("serving-only"), "scorer/networkpolicy")
    (rule,) = policy["spec"]["ingress"]
    assert rule["from"][0] == {"podSelector": {}}
    assert len(rule["from"]) == 2
    assert rule["ports"] == [{"protocol": "TCP", "port": 8080}]
    assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]
    assert objects({"networkPolicy": {"enabled": False}}, "scorer/networkpolicy") == []


def test_it_may_reach_kubeflows_own_object_store() -> None:
    """A policy is held against the port of the pod: SeaweedFS listens on 8333 behind port 9000 of its Service."""
    (policy,) = objects({}, "scorer/networkpolicy")
    ports = {(port["protocol"], port["port"]) for rule in policy["spec"]["egress"] for port in rule["ports"]}
    assert {("TCP", 8333), ("TCP", 9000), ("UDP", 53)} <= ports


def test_the_account_has_no_token_and_may_be_one_that_exists() -> None:
    (account,) = objects(scenario("aws"), "scorer/serviceaccount")
    assert account["automountServiceAccountToken"] is False
    assert "eks.amazonaws.com/role-arn" in account["metadata"]["annotations"]
    values = with_scorer(serviceAccount={"create": False, "name": "mine"})
    assert objects(values, "scorer/serviceaccount") == []
    (deployment,) = objects(values, DEPLOYMENT)
    assert deployment["spec"]["template"]["spec"]["serviceAccountName"] == "mine"


def test_no_scorer_at_all() -> None:
    assert objects(scenario("pipelines-only"), "scorer/") == []
