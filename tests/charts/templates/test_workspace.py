"""templates/workspace: the volume, where there is no bucket."""

from pipelines.setup import USER
from tests.charts.rendering import objects, scenario

PERSISTENCE = "workspace/"


def claim(**persistence: object) -> list:
    return objects({"workspace": {"persistence": persistence}}, PERSISTENCE)


def test_a_claim_that_outlives_the_release() -> None:
    (made,) = claim(size="5Gi", storageClass="fast", accessModes=["ReadWriteMany"])
    assert made["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}
    assert made["spec"] == {
        "accessModes": ["ReadWriteMany"],
        "storageClassName": "fast",
        "resources": {"requests": {"storage": "5Gi"}},
    }
    assert "annotations" not in claim(keep=False)[0]["metadata"]
    assert "storageClassName" not in claim()[0]["spec"]


def test_some_pod_gives_a_new_volume_to_the_steps_group() -> None:
    for scorer, template in ((True, "scorer/deployment"), (False, "kubeflow/apply-job")):
        (each,) = objects({"scorer": {"enabled": scorer}}, template)
        spec = each["spec"]["template"]["spec"]
        claims = [volume.get("persistentVolumeClaim") for volume in spec["volumes"]]
        assert {"claimName": "limaml-workspace"} in claims
        assert spec["securityContext"]["fsGroup"] == USER
    (job,) = objects({}, "kubeflow/apply-job")
    assert not any("persistentVolumeClaim" in volume for volume in job["spec"]["template"]["spec"]["volumes"])


def test_none_where_there_is_one_or_a_bucket() -> None:
    assert claim(existingClaim="mine") == []
    (deployment,) = objects({"workspace": {"persistence": {"existingClaim": "mine"}}}, "scorer/deployment")
    volumes = deployment["spec"]["template"]["spec"]["volumes"]
    assert {"claimName": "mine"} in [volume.get("persistentVolumeClaim") for volume in volumes]
    assert objects(scenario("aws"), PERSISTENCE) == []
