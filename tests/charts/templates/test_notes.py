"""NOTES.txt: the next commands, which exist."""

import re

import pytest
import typer

from pipelines.cli import build
from tests.charts.rendering import SCENARIOS, scenario, text


@pytest.mark.parametrize("name", SCENARIOS)
def test_every_command_it_names_exists_and_takes_its_options(name: str) -> None:
    notes = text(scenario(name))["NOTES.txt"]
    assert "helm test limaml -n team" in notes
    for line in re.findall(r"^  limaml (.*)$", notes, re.MULTILINE):
        words = line.split()
        command = typer.main.get_command(build())
        while hasattr(command, "commands"):
            command = command.commands[words.pop(0)]  # type: ignore[attr-defined]
        command.make_context("limaml", words)


def test_it_says_what_to_expect_before_a_first_release() -> None:
    assert "answer 503 until a release is published" in text({})["NOTES.txt"]
    waiting = text({"scorer": {"readyWithoutRelease": False}})["NOTES.txt"]
    assert "Until then `helm install --wait` does not end." in waiting


def test_it_warns_where_steps_may_not_find_claims_secrets_and_accounts() -> None:
    warning = "there, install this chart into kubeflow"
    for values in ({}, scenario("aws")):
        assert warning in text(values)["NOTES.txt"]
        assert warning not in text(values, namespace="kubeflow")["NOTES.txt"]
    places = {"workspace": {"uri": "s3://b/w"}, "store": {"url": "dynamodb://t"}, "mlflow": {"trackingUri": "http://m"}}
    assert warning not in text(places)["NOTES.txt"]


def test_it_warns_where_a_network_policy_keeps_out_who_is_to_come_in() -> None:
    warning = "WARNING: pods of team alone reach the scorers"
    from_outside = {
        "monitoring": {"serviceMonitor": {"enabled": True}},
        "scorer": {"ingress": {"enabled": True, "domain": "example"}},
    }
    notes = text(from_outside)["NOTES.txt"]
    assert f"{warning}: name the namespace of Prometheus and of the Ingress controller in networkPolicy.from" in notes
    assert warning not in text({})["NOTES.txt"]
    assert warning not in text(from_outside | {"networkPolicy": {"enabled": False}})["NOTES.txt"]
    assert warning not in text(from_outside | {"networkPolicy": {"from": [{"podSelector": {}}]}})["NOTES.txt"]


def test_it_says_so_where_there_is_nothing_to_do() -> None:
    assert "There is nothing to do yet" in text({"applications": {"ptap": None}})["NOTES.txt"]
