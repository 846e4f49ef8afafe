"""`infra/terraform`: formatted, valid, applied to a local AWS server, used by the project's own code, destroyed."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml

from limaml import storage
from limaml.config import parse_application
from limaml.errors import StorageError
from limaml.online.release import current, publish
from limaml.online.store import open_store, prepare_store
from tests.charts.rendering import objects, one
from tests.conftest import SMALL
from tests.limaml.online.conftest import Files

MODULE = Path(__file__).resolve().parents[2] / "infra/terraform"
CHART = MODULE.parents[1] / "charts/limaml/values.yaml"
REGION, ACCOUNT = "eu-central-1", "123456789012"
PROVIDER = f"arn:aws:iam::{ACCOUNT}:oidc-provider/oidc.eks.{REGION}.amazonaws.com/id/0123456789ABCDEF"
# A server that is no AWS: its own addresses come from AWS_ENDPOINT_URL.
OVERRIDE = """
provider "aws" {
  s3_use_path_style           = true
  skip_credentials_validation = true
  skip_metadata_api_check     = true
}
"""

pytestmark = pytest.mark.skipif(shutil.which("terraform") is None, reason="terraform is not on this machine")


def _terraform(folder: Path, *arguments: str, code: int = 0, **variables: Any) -> str:
    """A command's output; `variables` are given as the user's own would be."""
    given = {
        f"TF_VAR_{name}": value if isinstance(value, str) else json.dumps(value) for name, value in variables.items()
    }
    environment = {**os.environ, "TF_IN_AUTOMATION": "1", "CHECKPOINT_DISABLE": "1", **given}
    if not Path(environment.get("TF_CLI_CONFIG_FILE", "/")).exists():
        del environment["TF_CLI_CONFIG_FILE"]
    ended = subprocess.run(
        ["terraform", *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=600
    )
    assert ended.returncode == code, f"terraform {arguments[0]}: {ended.stdout}{ended.stderr}"
    return ended.stdout + (ended.stderr if code else "")


@pytest.fixture(scope="module")
def module(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The module beside a fresh state, with its provider from the registry or from where a closed network keeps it."""
    folder = tmp_path_factory.mktemp("terraform") / "module"
    shutil.copytree(MODULE, folder, ignore=shutil.ignore_patterns(".terraform*", "*.tfstate*", "*.tfvars"))
    (folder / "local_override.tf").write_text(OVERRIDE)
    mirrors = [
        path.parent for root in ("/opt", "/usr/local/share") for path in Path(root).glob("*/registry.terraform.io")
    ]
    tries = [[f"-plugin-dir={mirror}"] for mirror in mirrors] or [[]]
    for given in tries:
        try:
            _terraform(folder, "init", "-input=false", "-no-color", *given)
        except AssertionError as error:
            last = error
        else:
            return folder
    pytest.skip(f"no AWS provider for terraform: {str(last)[-300:]}")


def test_it_is_formatted() -> None:
    _terraform(MODULE, "fmt", "-check", "-diff")


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("variables", "says"),
    [
        ({}, ""),
        ({"region": "Frankfurt"}, "Give a region such as"),
        ({"name": "Li"}, "Give 3 to 32 lower-case letters"),
        ({"bucket_name": "with.dot"}, "a dot breaks TLS"),
        ({"workspace_prefix": "/w/"}, "without a slash at its ends"),
        ({"old_version_days": 0}, "at least 1"),
        ({"kms_key_arn": "alias/mine"}, "Give the ARN of a key"),
        ({"oidc_provider_arn": "arn:aws:iam::1:role/x"}, "oidc-provider"),
        ({"pipeline_service_accounts": ["*:limaml-runs"]}, "without wildcards"),
        ({"scorer_service_accounts": []}, "without wildcards"),
    ],
    ids=lambda given: next(iter(given), "all right") if isinstance(given, dict) else "",
)
def test_wrong_variables_are_refused_by_name(
    module: Path, local_aws: str, variables: dict[str, Any], says: str
) -> None:
    good = {"region": REGION, "oidc_provider_arn": PROVIDER} | variables
    said = _terraform(module, "plan", "-input=false", "-no-color", "-lock=false", code=1 if says else 0, **good)
    assert says in " ".join(said.replace("│", " ").split())


@pytest.fixture(scope="module")
def local_aws() -> Iterator[str]:
    """An AWS of this test's own, and the environment that leads terraform and boto3 to it."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    endpoint = "http://{}:{}".format(*server.get_host_and_port())
    settings = {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": REGION,
        "AWS_DEFAULT_REGION": REGION,
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            patch.setenv(name, value)
        storage._s3_client.cache_clear()
        storage._s3_filesystem.cache_clear()
        yield endpoint
    storage._s3_client.cache_clear()
    storage._s3_filesystem.cache_clear()
    server.stop()


@pytest.fixture(scope="module")
def made(module: Path, local_aws: str) -> Iterator[dict[str, Any]]:
    """Everything, applied; its outputs. Afterwards destroyed, and looked whether anything is left."""
    given: dict[str, Any] = {"region": REGION, "oidc_provider_arn": PROVIDER, "protect": False}
    _terraform(module, "apply", "-input=false", "-auto-approve", "-no-color", **given)
    outputs = json.loads(_terraform(module, "output", "-json"))
    # A second plan has nothing to do: what was made is what is written.
    _terraform(module, "plan", "-input=false", "-detailed-exitcode", "-no-color", **given)
    yield {name: output["value"] for name, output in outputs.items()}
    _terraform(module, "destroy", "-input=false", "-auto-approve", "-no-color", **given)
    assert boto3.client("s3").list_buckets()["Buckets"] == []
    assert boto3.client("dynamodb").list_tables()["TableNames"] == []
    assert boto3.client("ecr").describe_repositories()["repositories"] == []
    assert boto3.client("iam").list_roles()["Roles"] == []


def _bucket(made: dict[str, Any]) -> str:
    return made["workspace"].removeprefix("s3://").partition("/")[0]


@pytest.mark.heavy
def test_the_bucket_is_versioned_encrypted_private_and_forgets_old_versions(made: dict[str, Any]) -> None:
    s3, bucket = boto3.client("s3"), _bucket(made)
    assert bucket == f"limaml-{ACCOUNT}-{REGION}"
    assert s3.get_bucket_versioning(Bucket=bucket)["Status"] == "Enabled"
    (rule,) = s3.get_bucket_encryption(Bucket=bucket)["ServerSideEncryptionConfiguration"]["Rules"]
    assert rule["ApplyServerSideEncryptionByDefault"]["SSEAlgorithm"] == "AES256"
    assert set(s3.get_public_access_block(Bucket=bucket)["PublicAccessBlockConfiguration"].values()) == {True}
    (rule,) = s3.get_bucket_lifecycle_configuration(Bucket=bucket)["Rules"]
    assert rule["NoncurrentVersionExpiration"]["NoncurrentDays"] == 30
    assert rule["AbortIncompleteMultipartUpload"]["DaysAfterInitiation"] == 3
    (statement,) = json.loads(s3.get_bucket_policy(Bucket=bucket)["Policy"])["Statement"]
    assert (statement["Effect"], statement["Condition"]) == ("Deny", {"Bool": {"aws:SecureTransport": "false"}})


@pytest.mark.heavy
def test_the_table_is_the_one_that_release_init_makes(made: dict[str, Any]) -> None:
    assert prepare_store(made["store_url"]) is False
    assert prepare_store(f"dynamodb://{REGION}/by-release-init") is True
    client = boto3.client("dynamodb")

    def form(table: str) -> dict[str, Any]:
        about = client.describe_table(TableName=table)["Table"]
        kept = {name: about[name] for name in ("KeySchema", "BillingModeSummary")}
        kept["BillingModeSummary"] = kept["BillingModeSummary"]["BillingMode"]
        attributes = sorted(about["AttributeDefinitions"], key=lambda each: each["AttributeName"])
        expiry = client.describe_time_to_live(TableName=table)["TimeToLiveDescription"]
        return kept | {"attributes": attributes, "indexes": about.get("GlobalSecondaryIndexes", []), "expiry": expiry}

    assert form("limaml-embeddings") == form("by-release-init")
    client.delete_table(TableName="by-release-init")


@pytest.mark.heavy
def test_workspace_and_store_work_on_what_was_made(made: dict[str, Any], tmp_path: Path) -> None:
    application = parse_application(SMALL | {"store": {"url": made["store_url"]}}, "tests")
    files = Files(tmp_path, application)
    local = files.embeddings()
    embeddings = storage.join(made["workspace"], "small/embeddings/m1")
    with pytest.raises(StorageError, match="ACCESS_DENIED"):
        storage.exists(embeddings)  # by plain HTTP, which is all that the local server speaks
    boto3.client("s3").delete_bucket_policy(Bucket=_bucket(made))
    with storage.atomic_directory(embeddings) as folder:
        shutil.copytree(storage.local_path(local), folder, dirs_exist_ok=True)
    release = publish(embeddings, made["store_url"], application, files.decision(local))
    assert current(made["store_url"], application) == release
    ids = files.rows(local)["task_id"].to_pylist()
    assert open_store(made["store_url"], "small").open(release.generation).get(ids).found.all()
    lease = storage.join(made["workspace"], "small/leases/2026-01-31.json")
    assert storage.create_exclusive(lease, b"1")
    assert not storage.create_exclusive(lease, b"2")


@pytest.mark.heavy
def test_roles_trust_only_their_accounts_and_allow_only_what_is_needed(made: dict[str, Any]) -> None:
    iam, bucket = boto3.client("iam"), f"arn:aws:s3:::{_bucket(made)}"
    writes = {"s3:DeleteObject", "dynamodb:PutItem", "dynamodb:DeleteItem", "dynamodb:BatchWriteItem"}
    for role, arn in (("pipelines", made["pipelines_role_arn"]), ("scorer", made["scorer_role_arn"])):
        about = iam.get_role(RoleName=f"limaml-{role}")["Role"]
        assert about["Arn"] == arn
        (trust,) = about["AssumeRolePolicyDocument"]["Statement"]
        issuer = PROVIDER.partition("oidc-provider/")[2]
        account = "runs" if role == "pipelines" else "scorer"
        assert trust["Condition"]["StringEquals"] == {
            f"{issuer}:aud": "sts.amazonaws.com",
            f"{issuer}:sub": f"system:serviceaccount:limaml:limaml-{account}",
        }
        statements = iam.get_role_policy(RoleName=f"limaml-{role}", PolicyName="limaml")["PolicyDocument"]["Statement"]
        actions = {action for each in statements for action in _several(each["Action"])}
        assert not any("*" in action for action in actions)
        assert (writes <= actions) == (role == "pipelines")
        if role == "scorer":
            assert not writes & actions
            (puts,) = (each for each in statements if "s3:PutObject" in _several(each["Action"]))
            assert puts["Resource"] == f"{bucket}/exposures/*"
        resources = {resource for each in statements for resource in _several(each["Resource"])}
        assert "*" not in resources


def _several(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value


@pytest.mark.heavy
def test_the_registry_keeps_tags_and_scans(made: dict[str, Any]) -> None:
    (repository,) = boto3.client("ecr").describe_repositories()["repositories"]
    assert repository["repositoryUri"] == made["image_repository"]
    assert repository["imageTagMutability"] == "IMMUTABLE"
    assert repository["imageScanningConfiguration"] == {"scanOnPush": True}


@pytest.mark.heavy
def test_its_values_are_the_charts(made: dict[str, Any]) -> None:
    values, known = yaml.safe_load(made["chart_values"]), yaml.safe_load(CHART.read_text())

    def check(given: Any, there: Any, path: str) -> None:
        for name, value in given.items():
            assert name in there, f"{path}{name}"
            if isinstance(value, dict) and name != "annotations":
                check(value, there[name], f"{path}{name}.")

    check(values, known, "")
    found = objects(values | {"mlflow": {"trackingUri": "http://mlflow.limaml.svc:5000"}})
    for name, role in (("limaml-scorer", "scorer"), ("limaml-runs", "pipelines")):
        account = one(found, "ServiceAccount", name)
        assert account["metadata"]["annotations"] == {"eks.amazonaws.com/role-arn": made[f"{role}_role_arn"]}
    assert values["workspace"]["uri"] == made["workspace"]
    assert values["store"]["url"] == made["store_url"]
