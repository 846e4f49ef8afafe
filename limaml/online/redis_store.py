"""The online store in Redis or Valkey, alone or as a cluster. `docs/stores_redis.md` has keys, sizes and settings.

limaml:<application>:<generation>:<chunk>:<page>   a page, a plain string; spread over the slots
limaml:{<application>}:current                     the current release; everything in braces lies in one slot
limaml:{<application>}:<kind>                      a hash of records: plans, seals, releases, chunks:<generation>
limaml:{<application>}:lease:<generation>          who writes it; expires by itself
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import redis
from redis.backoff import FullJitterBackoff
from redis.cluster import RedisCluster
from redis.exceptions import RedisClusterException
from redis.retry import Retry

from limaml.errors import ConfigError, StoreError
from limaml.failpoints import failpoint
from limaml.online.backend import RELEASES, SEALS, Flip
from limaml.online.paged_store import PagedStore
from limaml.online.writer_lease import Lease

USERNAME = "LIMAML_REDIS_USERNAME"
PASSWORD = "LIMAML_REDIS_PASSWORD"
# What the URL may override by parameters of these names.
TIMEOUTS = {"socket_connect_timeout": 0.5, "socket_timeout": 1.0}
_PAGES_AT_ONCE = 256

_FLIP = """
local current = redis.call('GET', KEYS[1])
local number = current and cjson.decode(current).number or 0
if number ~= tonumber(ARGV[1]) - 1 then return 1 end
if redis.call('HEXISTS', KEYS[2], ARGV[2]) == 0 then return 2 end
redis.call('HSET', KEYS[3], ARGV[1], ARGV[3])
redis.call('SET', KEYS[1], ARGV[3])
return 0
"""
_RETIRE = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return -1 end
local current = redis.call('GET', KEYS[2])
if current and cjson.decode(current).generation == ARGV[2] then return 0 end
redis.call('HDEL', KEYS[3], ARGV[2])
return 1
"""
_PUT = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return -1 end
redis.call('HSET', KEYS[2], ARGV[2], ARGV[3])
return 1
"""
_DROP = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return -1 end
redis.call('HDEL', KEYS[2], ARGV[2])
return 1
"""
_TAKE = """
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] and holder ~= ARGV[3] then return holder end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return false
"""
_RENEW = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])
"""
_RELEASE = """
if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end
return 1
"""


def open_redis(url: str, application: str) -> PagedStore:
    """The store behind `redis://host:port/db`, or `rediss://…` with TLS; with `?cluster=true`, behind a cluster's node.

    User and password come from the environment (`LIMAML_REDIS_USERNAME`, `LIMAML_REDIS_PASSWORD`).

    Raises:
        ConfigError: the URL names an option that the client does not know.
        StoreError: a cluster can't be reached, or the server would evict embeddings.
    """
    return PagedStore(url, application, RedisBackend(url, application))


@contextmanager
def _errors(action: str, where: str) -> Iterator[None]:
    try:
        yield
    except (redis.RedisError, RedisClusterException) as error:
        raise StoreError(
            f"can't {action} {where}: {type(error).__name__}: {error}; the current release is unchanged. Check the "
            "server and run again: finished work is kept"
        ) from error


class RedisBackend:
    """See the module's text. Safe to share between threads."""

    page_bytes = 2500
    maximum_page_bytes = 1 << 20

    def __init__(self, url: str, application: str) -> None:
        parts = urlsplit(url)
        options = dict(parse_qsl(parts.query))
        cluster = options.pop("cluster", "false").lower() in ("true", "1")
        plain = urlunsplit(parts._replace(query=urlencode(options)))
        login = {"username": os.environ.get(USERNAME), "password": os.environ.get(PASSWORD)}
        retry = Retry(FullJitterBackoff(cap=0.5, base=0.02), 2)
        self._where = f"{parts.hostname}:{parts.port or 6379}"
        self._pages = f"limaml:{application}:"
        self._records = f"limaml:{{{application}}}:"
        try:
            with _errors("connect to", self._where):
                kind = cast(Any, RedisCluster if cluster else redis.Redis)
                self._client = kind.from_url(plain, retry=retry, **login, **TIMEOUTS)
                if not cluster:
                    # An option nobody knows would show up with the first request only.
                    pool = self._client.connection_pool
                    pool.connection_class(**pool.connection_kwargs)
        except (TypeError, ValueError) as error:
            raise ConfigError(
                f"store.url of {self._where}: {error}; see docs/stores_redis.md for its options"
            ) from error

    def current(self) -> bytes | None:
        with _errors("read the current release from", self._where):
            return self._client.get(f"{self._records}current")

    def flip(self, number: int, generation: str, body: bytes) -> Flip:
        keys = [f"{self._records}{name}" for name in ("current", SEALS, RELEASES)]
        return Flip(self._run("flip the pointer of", _FLIP, keys, number, generation, body))

    def retire(self, generation: str, lease: Lease) -> bool:
        return self._leased("delete a generation of", _RETIRE, lease, ["current", SEALS], generation) == 1

    def record(self, kind: str, name: str) -> bytes | None:
        with _errors("read", self._where):
            return self._client.hget(f"{self._records}{kind}", name)

    def records(self, kind: str) -> dict[str, bytes]:
        with _errors("read", self._where):
            found = self._client.hgetall(f"{self._records}{kind}")
        return {name.decode(): body for name, body in found.items()}

    def put(self, kind: str, name: str, body: bytes, lease: Lease) -> None:
        self._leased("write to", _PUT, lease, [kind], name, body)

    def drop(self, kind: str, name: str, lease: Lease) -> None:
        self._leased("delete from", _DROP, lease, [kind], name)

    def read_pages(self, names: Sequence[str], newest: bool = False) -> list[bytes | None]:
        with _errors("read", self._where):
            if len(names) == 1:
                return [self._client.get(self._pages + names[0])]
            return self._pipelined([("GET", self._pages + name) for name in names])

    def write_pages(self, pages: Mapping[str, bytes]) -> None:
        with _errors("write to", self._where):
            self._pipelined([("SET", self._pages + name, page) for name, page in pages.items()])

    def delete_pages(self, names: Sequence[str]) -> None:
        with _errors("delete from", self._where):
            self._pipelined([("UNLINK", self._pages + name) for name in names])

    def take(self, lease: Lease, seconds: float, instead_of: bytes | None) -> bytes | None:
        self._refuse_eviction()
        key = [f"{self._records}lease:{lease.name}"]
        return self._run("write to", _TAKE, key, lease.body, int(1000 * seconds), instead_of or b"")

    def renew(self, lease: Lease, seconds: float) -> bool:
        key = [f"{self._records}lease:{lease.name}"]
        return bool(self._run("write to", _RENEW, key, lease.body, int(1000 * seconds)))

    def release(self, lease: Lease) -> None:
        self._run("write to", _RELEASE, [f"{self._records}lease:{lease.name}"], lease.body)

    def _pipelined(self, commands: Sequence[tuple]) -> list[Any]:
        """One key a command, so that a cluster can take them apart; some at a time, so that no buffer grows large."""
        answers: list[Any] = []
        for start in range(0, len(commands), _PAGES_AT_ONCE):
            pipeline = self._client.pipeline(transaction=False)
            for command in commands[start : start + _PAGES_AT_ONCE]:
                pipeline.execute_command(*command)
            answers += pipeline.execute()
            failpoint("redis.pages.part")
        return answers

    def _leased(self, action: str, script: str, lease: Lease, kinds: Sequence[str], *arguments: str | bytes) -> int:
        keys = [f"{self._records}{name}" for name in (f"lease:{lease.name}", *kinds)]
        answer = self._run(action, script, keys, lease.body, *arguments)
        if answer == -1:
            raise StoreError(
                f"{self._where}: the lease on generation {lease.name} is no longer ours: this process was away for "
                "too long, or the server lost it; run again: finished work is kept"
            )
        return answer

    def _run(self, action: str, script: str, keys: Sequence[str], *arguments: str | bytes | int) -> Any:
        with _errors(action, self._where):
            return self._client.eval(script, len(keys), *keys, *arguments)

    def _refuse_eviction(self) -> None:
        """A server that evicts keys when memory runs out would lose embeddings one by one."""
        with _errors("ask", self._where):
            if isinstance(self._client, RedisCluster):
                nodes = self._client.info("memory", target_nodes=RedisCluster.PRIMARIES).values()
            else:
                nodes = [self._client.info("memory")]
        for memory in nodes:
            policy = memory.get("maxmemory_policy", "noeviction")
            if memory.get("maxmemory") and policy.startswith("allkeys"):
                raise StoreError(
                    f"{self._where}: maxmemory-policy is {policy}, which evicts embeddings when memory runs out; "
                    "set it to noeviction (or volatile-…, since pages never expire)"
                )
