"""From every scenario to every other, an upgrade changes nothing that Kubernetes refuses to change."""

from itertools import permutations
from typing import Any

import pytest

from tests.charts.rendering import SCENARIOS, Object, objects, scenario

# What the API server refuses to change, by kind.
IMMUTABLE = {
    "Deployment": [("spec", "selector")],
    "Service": [("spec", "clusterIP")],
    "RoleBinding": [("roleRef",)],
    "PersistentVolumeClaim": [("spec", "accessModes"), ("spec", "storageClassName")],
    "Secret": [("type",), ("immutable",)],
    "Job": [("spec",)],
    "Pod": [("spec",)],
}
RENDERED = {name: objects(scenario(name)) for name in SCENARIOS}


def lasting(found: list[Object]) -> dict[tuple[str, str], Object]:
    """What stays between two upgrades: hooks are made anew each time."""
    return {
        (each["kind"], each["metadata"]["name"]): each
        for each in found
        if "helm.sh/hook" not in each["metadata"].get("annotations", {})
    }


def _at(content: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        content = content.get(name) if isinstance(content, dict) else None
    return content


@pytest.mark.parametrize(("before", "after"), [*permutations(SCENARIOS, 2)])
def test_nothing_immutable_changes(before: str, after: str) -> None:
    old, new = lasting(RENDERED[before]), lasting(RENDERED[after])
    for identity in old.keys() & new.keys():
        for path in IMMUTABLE.get(identity[0], []):
            # A claim's class and modes are the user's to choose once.
            if identity[0] != "PersistentVolumeClaim":
                assert _at(old[identity], path) == _at(new[identity], path), identity


def test_a_jobs_and_a_pods_only_home_is_a_hook() -> None:
    for found in RENDERED.values():
        assert not {"Job", "Pod"} & {kind for kind, _ in lasting(found)}


def test_hooks_need_nothing_that_comes_after_them() -> None:
    """Install and upgrade make everything else first, and an uninstall deletes it last."""
    for found in RENDERED.values():
        for each in found:
            hooks = each["metadata"].get("annotations", {}).get("helm.sh/hook", "")
            assert set(filter(None, hooks.split(","))) <= {
                "post-install",
                "post-upgrade",
                "post-rollback",
                "pre-delete",
                "test",
            }
            if hooks:
                policy = each["metadata"]["annotations"]["helm.sh/hook-delete-policy"]
                assert policy == "before-hook-creation,hook-succeeded"


def test_another_chart_version_alone_restarts_no_pod() -> None:
    for found in RENDERED.values():
        for each in found:
            if each["kind"] == "Deployment":
                labels = each["spec"]["template"]["metadata"]["labels"]
                assert not {"helm.sh/chart", "app.kubernetes.io/version"} & labels.keys()
