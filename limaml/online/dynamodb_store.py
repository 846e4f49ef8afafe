"""The online store in one DynamoDB table. `docs/stores_dynamodb.md` has items, sizes, costs and settings.

place                                    kind       holds
<application>#<generation>:<chunk>:<page>  page       a page in `body`; its own partition key, so writes spread
<application>                            current    the current release, its `number` and `generation` beside `body`
<application>                            <kind>#<name>  a record: plans, seals, releases, chunks:<generation>
<application>                            lease#<generation>  who writes it, until `expires_at`
"""

import time
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import parse_qs, urlsplit

from limaml.errors import ConfigError, StoreError
from limaml.online.backend import RELEASES, SEALS, Flip
from limaml.online.dynamodb_table import Table, open_table
from limaml.online.paged_store import PagedStore
from limaml.online.writer_lease import Lease

OPTIONS = {"endpoint", "expire_days"}
MINIMUM_EXPIRE_DAYS = 30


def open_dynamodb(url: str, application: str) -> PagedStore:
    """The store behind `dynamodb://table` or `dynamodb://region/table`; credentials as boto3 finds them.

    Options: `endpoint`, and `expire_days`: pages expire by themselves so long after they were written, and retired
    generations are left to that instead of being deleted, which costs as much as writing them.

    Raises:
        ConfigError: an unknown option, too few days, or no region.
    """
    table, days = _parsed(url)
    return PagedStore(url, application, DynamoBackend(table, application, days))


def create_table(url: str) -> bool:
    """Create the table a URL names; False where it exists.

    Raises:
        ConfigError: as `open_dynamodb`.
        StoreError: it can't be created.
    """
    return _parsed(url)[0].create()


def _parsed(url: str) -> tuple[Table, int | None]:
    parts = urlsplit(url)
    options = {name: values[-1] for name, values in parse_qs(parts.query).items()}
    if unknown := options.keys() - OPTIONS:
        raise ConfigError(f"store.url {url!r}: no option {min(unknown)!r}; there are {', '.join(sorted(OPTIONS))}")
    days = options.get("expire_days")
    if days is not None and not (days.isdecimal() and int(days) >= MINIMUM_EXPIRE_DAYS):
        raise ConfigError(
            f"store.url {url!r}: expire_days {days}: give at least {MINIMUM_EXPIRE_DAYS} whole days, longer than a "
            "release may ever have to serve"
        )
    path = parts.path.strip("/")
    region, name = (parts.netloc, path) if path else (None, parts.netloc)
    return open_table(name, region, options.get("endpoint")), int(days) if days else None


class DynamoBackend:
    """See the module's text. Safe to share between threads."""

    page_bytes = 3200  # of 4096 that one read unit covers: pages are of different sizes by chance
    maximum_page_bytes = 390_000  # of 409,600 an item may have, names included

    def __init__(self, table: Table, application: str, expire_days: int | None) -> None:
        self._table = table
        self._application = application
        self._expire_days = expire_days

    def current(self) -> bytes | None:
        return _body(self._table.get(self._key("current")))

    def flip(self, number: int, generation: str, body: bytes) -> Flip:
        fields = {"body": {"B": body}, "number": {"N": str(number)}, "generation": {"S": generation}}
        moved: dict[str, Any] = {
            "Item": self._key("current") | fields,
            "ConditionExpression": "attribute_not_exists(place)",
        }
        if number > 1:
            moved |= {
                "ConditionExpression": "#number = :before",
                "ExpressionAttributeNames": {"#number": "number"},
                "ExpressionAttributeValues": {":before": {"N": str(number - 1)}},
            }
        seal = {"Key": self._key(f"{SEALS}#{generation}"), "ConditionExpression": "attribute_exists(place)"}
        record = {"Item": self._key(f"{RELEASES}#{number}") | {"body": {"B": body}}}
        failed = self._table.transact("flip the pointer", [("Put", moved), ("ConditionCheck", seal), ("Put", record)])
        if not failed:
            return Flip.DONE
        return Flip.MOVED if 0 in failed else Flip.UNSEALED

    def retire(self, generation: str, lease: Lease) -> bool:
        unless_current = {
            "Key": self._key("current"),
            "ConditionExpression": "attribute_not_exists(place) OR generation <> :generation",
            "ExpressionAttributeValues": {":generation": {"S": generation}},
        }
        seal = {"Key": self._key(f"{SEALS}#{generation}")}
        return not self._leased("delete a generation", lease, [("Delete", seal), ("ConditionCheck", unless_current)])

    def record(self, kind: str, name: str) -> bytes | None:
        return _body(self._table.get(self._key(f"{kind}#{name}")))

    def records(self, kind: str) -> dict[str, bytes]:
        found = self._table.query(self._application, f"{kind}#")
        return {item["kind"]["S"].partition("#")[2]: item["body"]["B"] for item in found}

    def put(self, kind: str, name: str, body: bytes, lease: Lease) -> None:
        item = self._key(f"{kind}#{name}") | {"body": {"B": body}}
        self._leased("write a record", lease, [("Put", {"Item": item})])

    def drop(self, kind: str, name: str, lease: Lease) -> None:
        self._leased("delete a record", lease, [("Delete", {"Key": self._key(f"{kind}#{name}")})])

    def read_pages(self, names: Sequence[str], newest: bool = False) -> list[bytes | None]:
        places = [f"{self._application}#{name}" for name in names]
        found = self._table.read(places, consistent=newest)
        if not newest and (missing := [place for place in places if place not in found]):
            # An eventually consistent read may not have heard yet of a page that is there.
            found |= self._table.read(missing, consistent=True)
        return [found.get(place) for place in places]

    def write_pages(self, pages: Mapping[str, bytes]) -> None:
        expiry = {}
        if self._expire_days is not None:
            expiry = {"expires_at": {"N": str(int(time.time()) + 86_400 * self._expire_days)}}
        items = ({**self._page_key(name), "body": {"B": page}, **expiry} for name, page in pages.items())
        self._table.write("write pages", [{"PutRequest": {"Item": item}} for item in items])

    def delete_pages(self, names: Sequence[str]) -> None:
        if self._expire_days is None:
            self._table.write("delete pages", [{"DeleteRequest": {"Key": self._page_key(name)}} for name in names])

    def take(self, lease: Lease, seconds: float, instead_of: bytes | None) -> bytes | None:
        request = {
            "Item": self._lease_item(lease, seconds),
            "ConditionExpression": "attribute_not_exists(place) OR expires_at < :now OR body IN (:ours, :dead)",
            "ExpressionAttributeValues": {
                ":now": {"N": str(int(time.time()))},
                ":ours": {"B": lease.body},
                ":dead": {"B": instead_of or lease.body},
            },
        }
        while self._table.transact("take a lease", [("Put", request)]):
            holder = self._table.get(self._key(f"lease#{lease.name}"))
            if holder is not None:
                return holder["body"]["B"]
        return None

    def renew(self, lease: Lease, seconds: float) -> bool:
        request = {"Item": self._lease_item(lease, seconds), **_ours(lease)}
        return not self._table.transact("renew a lease", [("Put", request)])

    def release(self, lease: Lease) -> None:
        self._table.transact("release a lease", [("Delete", {"Key": self._key(f"lease#{lease.name}"), **_ours(lease)})])

    def _leased(self, action: str, lease: Lease, requests: list[tuple[str, dict[str, Any]]]) -> set[int]:
        """Numbers of the requests whose condition failed; none of them was done then."""
        check = {"Key": self._key(f"lease#{lease.name}"), **_ours(lease)}
        failed = self._table.transact(action, [*requests, ("ConditionCheck", check)])
        if len(requests) in failed:
            raise StoreError(
                f"{self._table.name}: the lease on generation {lease.name} is no longer ours: this process was away "
                "for too long; run again: finished work is kept"
            )
        return failed

    def _lease_item(self, lease: Lease, seconds: float) -> dict[str, Any]:
        expires = {"expires_at": {"N": str(int(time.time() + seconds) + 1)}}
        return self._key(f"lease#{lease.name}") | {"body": {"B": lease.body}} | expires

    def _key(self, kind: str) -> dict[str, Any]:
        return {"place": {"S": self._application}, "kind": {"S": kind}}

    def _page_key(self, name: str) -> dict[str, Any]:
        return {"place": {"S": f"{self._application}#{name}"}, "kind": {"S": "page"}}


def _body(item: dict[str, Any] | None) -> bytes | None:
    return None if item is None else item["body"]["B"]


def _ours(lease: Lease) -> dict[str, Any]:
    return {"ConditionExpression": "body = :ours", "ExpressionAttributeValues": {":ours": {"B": lease.body}}}
