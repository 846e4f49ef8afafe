"""What only the Redis store has: a login from the environment, options in the URL, keys that a cluster can spread."""

from pathlib import Path

import pytest

from limaml.errors import ConfigError, StoreError
from limaml.online.redis_store import PASSWORD, USERNAME, open_redis
from limaml.online.store import open_store
from tests.limaml.online.servers import RedisServer
from tests.limaml.online.test_store_protocol import plan, release, rows, write


def test_the_login_comes_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with RedisServer(tmp_path) as server:
        server.client().acl_setuser(
            "limaml", enabled=True, passwords=["+hunter2"], categories=["+@all"], keys=["limaml:*"]
        )
        server.client().config_set("requirepass", "another")
        with pytest.raises(StoreError, match="AuthenticationError") as refused:
            open_store(server.url, "small").current()
        monkeypatch.setenv(USERNAME, "limaml")
        monkeypatch.setenv(PASSWORD, "wrong-one")
        with pytest.raises(StoreError, match="AuthenticationError") as refused:
            open_store(server.url, "small").current()
        assert "wrong-one" not in str(refused.value)
        monkeypatch.setenv(PASSWORD, "hunter2")
        # Rights on the keys of this prefix are enough for all a store does.
        store = open_store(server.url, "small")
        first = write(store, plan(), *rows(50))
        store.flip(release(1, first.name))
        second = write(store, plan("20260201-000000000000"), *rows(50))
        store.flip(release(2, second.name))
        assert store.discard(first.name) is True
        store.audit(second.name)


@pytest.mark.parametrize("option", ["color=red", "socket_timeout=soon", "ssl_ca_certs=x"])
def test_an_option_that_the_client_does_not_know(option: str) -> None:
    with pytest.raises(ConfigError, match=r"store\.url of cache:6379: .*docs/stores_redis\.md"):
        open_redis(f"redis://cache/0?{option}", "small")


def test_a_server_that_is_not_there_is_an_error_at_once() -> None:
    with pytest.raises(StoreError, match=r"can't read the current release from 127\.0\.0\.1:1: ConnectionError"):
        open_store("redis://127.0.0.1:1/0", "small").current()
    with pytest.raises(StoreError, match=r"can't connect to 127\.0\.0\.1:1"):
        open_store("redis://127.0.0.1:1?cluster=true", "small")


def test_pages_spread_over_a_cluster_and_records_stay_together(redis_cluster_url: str) -> None:
    store = open_store(redis_cluster_url, "small")
    store.flip(release(1, write(store, plan(), *rows(2000), chunk=500).name))
    client = store._backend._client  # type: ignore[attr-defined]
    by_node = {node.name: client.keys("*", target_nodes=node) for node in client.get_primaries()}
    pages = [sum(b"{" not in key for key in keys) for keys in by_node.values()]
    records = [sum(b"{" in key for key in keys) for keys in by_node.values()]
    assert min(pages) > 0
    assert sorted(records)[:2] == [0, 0]


def test_nothing_is_left_when_the_last_generation_is_gone(redis_url: str, redis_server: RedisServer) -> None:
    store = open_store(redis_url, "small")
    write(store, plan(), *rows(3000))
    assert store.discard(plan().name) is True
    assert redis_server.client().keys() == []
