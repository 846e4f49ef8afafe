"""templates/runs: the account of the pipelines' steps and its rights."""

from tests.charts.rendering import objects, one, scenario


def test_kubeflows_own_account_by_default() -> None:
    assert objects({}, "runs/") == []


def test_an_account_of_ours_may_what_a_step_needs() -> None:
    found = objects(scenario("aws"), "runs/")
    account, role, binding = one(found, "ServiceAccount"), one(found, "Role"), one(found, "RoleBinding")
    assert "eks.amazonaws.com/role-arn" in account["metadata"]["annotations"]
    rights = {(resource, verb) for rule in role["rules"] for resource in rule["resources"] for verb in rule["verbs"]}
    assert {("workflowtaskresults", "create"), ("workflowtaskresults", "patch"), ("secrets", "get")} <= rights
    assert not any("*" in pair for pair in rights)
    for rule in role["rules"]:
        if rule["resources"] in (["secrets"], ["configmaps"]):
            assert rule["resourceNames"], "reading every secret of the namespace is too much"
    assert binding["subjects"][0]["name"] == account["metadata"]["name"]


def test_an_account_that_exists_gets_only_what_is_asked_for() -> None:
    found = objects(scenario("pipelines-only"), "runs/")
    assert [each["kind"] for each in found] == ["Role", "RoleBinding"]
    groups = {group for rule in found[0]["rules"] for group in rule["apiGroups"]}
    assert groups == {"trainer.kubeflow.org", ""}
    assert found[1]["subjects"][0]["name"] == "default-editor"
    verbs = {verb for rule in found[0]["rules"] if rule["apiGroups"] == [""] for verb in rule["verbs"]}
    assert verbs == {"get", "list"}
