"""DynamoDB's requests, each until it is wholly done or a deadline passes: the one place that knows boto3's answers.

BatchWriteItem and BatchGetItem return what they did *not* do. Only that is asked again, after a pause of random length
(full jitter); an answer is complete or an error. boto3's own retries are off: there is one deadline, not two.
"""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, ConnectionError, HTTPClientError, NoRegionError

from limaml.errors import ConfigError, StoreError
from limaml.failpoints import failpoint
from limaml.online.retry import tries

READ_SECONDS = 3.0
WRITE_SECONDS = 60.0
WRITERS = 8
_WRITES_AT_ONCE, _READS_AT_ONCE = 25, 100  # the service's limits on one batch
_CONFIG = Config(connect_timeout=1, read_timeout=2, retries={"total_max_attempts": 1}, max_pool_connections=4 * WRITERS)
_TRANSIENT = {
    "InternalServerError",
    "LimitExceededException",
    "ProvisionedThroughputExceededException",
    "RequestLimitExceeded",
    "ServiceUnavailable",
    "ThrottlingException",
    "TransactionConflictException",
    "TransactionInProgressException",
}
_REPEATABLE = {"TransactionConflict", "ThrottlingError", "ProvisionedThroughputExceeded"}  # reasons of a cancellation


def open_table(name: str, region: str | None, endpoint: str | None) -> "Table":
    """A table by name; whether it exists shows with the first request.

    Raises:
        ConfigError: no region, neither here nor in the environment.
    """
    try:
        client = boto3.client("dynamodb", region_name=region, endpoint_url=endpoint, config=_CONFIG)
    except (NoRegionError, ValueError) as error:
        raise ConfigError(
            f"store.url: DynamoDB table {name}: {error}; give dynamodb://region/table or set AWS_REGION"
        ) from error
    return Table(client, name)


class Table:
    """One table; every item has the keys `place` and `kind`. Every method may raise StoreError."""

    def __init__(self, client: Any, name: str) -> None:
        self.name = name
        self._client = client

    def create(self) -> bool:
        """Create the table, paid by the request, with expiry by `expires_at`; False where it exists."""
        created = self._call("create", WRITE_SECONDS, self._create)
        self._call("wait for", WRITE_SECONDS, lambda: self._client.get_waiter("table_exists").wait(TableName=self.name))
        expiry = self._call("look at", WRITE_SECONDS, lambda: self._client.describe_time_to_live(TableName=self.name))
        if expiry["TimeToLiveDescription"]["TimeToLiveStatus"] == "DISABLED":
            wanted = {"Enabled": True, "AttributeName": "expires_at"}
            request = {"TableName": self.name, "TimeToLiveSpecification": wanted}
            self._call("set expiry", WRITE_SECONDS, lambda: self._client.update_time_to_live(**request))
        return created

    def _create(self) -> bool:
        names = [("place", "HASH"), ("kind", "RANGE")]
        try:
            self._client.create_table(
                TableName=self.name,
                BillingMode="PAY_PER_REQUEST",
                AttributeDefinitions=[{"AttributeName": each, "AttributeType": "S"} for each, _ in names],
                KeySchema=[{"AttributeName": each, "KeyType": role} for each, role in names],
            )
        except self._client.exceptions.ResourceInUseException:
            return False
        return True

    def get(self, key: dict[str, Any]) -> dict[str, Any] | None:
        """One item, as it was last written."""
        request = {"TableName": self.name, "Key": key, "ConsistentRead": True}
        return self._call("read", READ_SECONDS, lambda: self._client.get_item(**request)).get("Item")

    def query(self, place: str, prefix: str) -> list[dict[str, Any]]:
        """All items of a place whose kind begins with a prefix, as they were last written."""
        request = {
            "TableName": self.name,
            "ConsistentRead": True,
            "KeyConditionExpression": "place = :place AND begins_with(kind, :prefix)",
            "ExpressionAttributeValues": {":place": {"S": place}, ":prefix": {"S": prefix}},
        }
        found: list[dict[str, Any]] = []
        while True:
            answer = self._call("read", WRITE_SECONDS, lambda: self._client.query(**request))
            found += answer["Items"]
            if not answer.get("LastEvaluatedKey"):
                return found
            request["ExclusiveStartKey"] = answer["LastEvaluatedKey"]

    def read(self, places: Sequence[str], consistent: bool) -> dict[str, bytes]:
        """Bodies of the pages at these places that exist."""
        found: dict[str, bytes] = {}
        seconds = WRITE_SECONDS if consistent else READ_SECONDS
        for start in range(0, len(places), _READS_AT_ONCE):
            part = dict.fromkeys(places[start : start + _READS_AT_ONCE])
            keys = [{"place": {"S": place}, "kind": {"S": "page"}} for place in part]
            pending: dict[str, Any] = {self.name: {"Keys": keys, "ConsistentRead": consistent}}

            def step() -> bool:
                nonlocal pending
                answer = self._client.batch_get_item(RequestItems=pending)
                for item in answer["Responses"].get(self.name, ()):
                    found[item["place"]["S"]] = item["body"]["B"]
                pending = answer.get("UnprocessedKeys") or {}
                return not pending

            self._call("read pages", seconds, step, done=bool)
        return found

    def write(self, action: str, requests: Sequence[dict[str, Any]]) -> None:
        """Put or delete many items, side by side; each may be asked for more than once, which changes nothing."""
        parts = [requests[start : start + _WRITES_AT_ONCE] for start in range(0, len(requests), _WRITES_AT_ONCE)]
        failed = threading.Event()

        def send(part: Sequence[dict[str, Any]]) -> None:
            if failed.is_set():
                return
            pending: dict[str, Any] = {self.name: part}

            def step() -> bool:
                nonlocal pending
                pending = self._client.batch_write_item(RequestItems=pending).get("UnprocessedItems") or {}
                return not pending

            try:
                self._call(action, WRITE_SECONDS, step, done=bool)
                failpoint("dynamodb.pages.batch")
            except StoreError:
                failed.set()
                raise

        with ThreadPoolExecutor(WRITERS) as pool:
            for _ in pool.map(send, parts):
                pass

    def transact(self, action: str, requests: Sequence[tuple[str, dict[str, Any]]]) -> set[int]:
        """Do all requests at once, or none; numbers of those whose condition failed."""
        items = [{kind: {"TableName": self.name, **request}} for kind, request in requests]

        def step() -> set[int] | None:
            try:
                self._client.transact_write_items(TransactItems=items)
            except self._client.exceptions.TransactionCanceledException as error:
                reasons = [each.get("Code") for each in error.response["CancellationReasons"]]
                failed = {number for number, reason in enumerate(reasons) if reason == "ConditionalCheckFailed"}
                if failed:
                    return failed
                if _REPEATABLE.intersection(reasons):
                    return None
                raise
            return set()

        failed = self._call(action, 4 * READ_SECONDS, step, done=lambda answer: answer is not None)
        failpoint("dynamodb.transaction.done")
        return failed

    def _call(
        self, action: str, seconds: float, step: Callable[[], Any], done: Callable[[Any], bool] = lambda _: True
    ) -> Any:
        """A step's answer, tried again while it is throttled, times out or leaves something to do."""
        last: Exception | None = None
        for _ in tries(seconds):
            try:
                answer = step()
            except (ConnectionError, HTTPClientError) as error:
                last = error
                continue
            except (ClientError, BotoCoreError) as error:
                if _code(error) not in _TRANSIENT:
                    raise self._error(action, error) from error
                last = error
                continue
            if done(answer):
                return answer
            last = None
        why = f"{type(last).__name__}: {last}" if last else "the table left a part undone each time"
        raise StoreError(
            f"can't {action} in DynamoDB table {self.name} within {seconds:.0f} s: {why}; the current release is "
            "unchanged. Raise the table's capacity or wait, and run again: finished work is kept"
        ) from last

    def _error(self, action: str, error: Exception) -> StoreError:
        hint = "the current release is unchanged; check the table and the permissions, and run again"
        if _code(error) == "ResourceNotFoundException":
            hint = "there is no such table: `limaml release init` makes it"
        return StoreError(f"can't {action} in DynamoDB table {self.name}: {error}; {hint}")


def _code(error: Exception) -> str:
    return error.response["Error"]["Code"] if isinstance(error, ClientError) else ""
