"""templates/monitoring: what Prometheus Operator and Grafana find, and that it is what monitoring/ has."""

import json

import yaml

from charts.generate import MONITORING
from tests.charts.rendering import objects, scenario

VALUES = scenario("everything")


def test_the_monitor_reads_every_scorers_service_and_names_its_application() -> None:
    (monitor,) = objects(VALUES, "monitoring/servicemonitor")
    assert monitor["apiVersion"] == "monitoring.coreos.com/v1"
    assert monitor["metadata"]["labels"]["release"] == "prometheus"
    for service in objects(VALUES, "scorer/service.yaml"):
        assert monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
        (endpoint,) = monitor["spec"]["endpoints"]
        assert endpoint["port"] in [port["name"] for port in service["spec"]["ports"]]
        assert endpoint["path"] == "/metrics"
        (label,) = endpoint["relabelings"]
        (source,) = label["sourceLabels"]
        as_prometheus_spells_it = {
            name.translate(str.maketrans("./-", "___")) for name in service["metadata"]["labels"]
        }
        assert source.removeprefix("__meta_kubernetes_service_label_") in as_prometheus_spells_it
        assert label["targetLabel"] == "application"


def test_the_rule_is_the_alerts_as_they_are_tested() -> None:
    (rule,) = objects(VALUES, "monitoring/prometheusrule")
    assert rule["apiVersion"] == "monitoring.coreos.com/v1"
    assert rule["spec"] == yaml.safe_load((MONITORING / "alerts.yaml").read_text())


def test_dashboards_are_the_same_pages() -> None:
    (config_map,) = objects(VALUES, "monitoring/dashboards")
    assert config_map["metadata"]["labels"]["grafana_dashboard"] == "1"
    made = {name: json.loads(page) for name, page in config_map["data"].items()}
    assert made == {
        f"limaml-{path.name}": json.loads(path.read_text()) for path in MONITORING.glob("dashboards/*.json")
    }


def test_nothing_of_it_without_being_asked_for() -> None:
    assert objects({}, "monitoring/") == []
