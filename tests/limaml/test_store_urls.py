"""Which stores there are, and that no URL carries a password."""

import pytest

from limaml.config import parse_application
from limaml.errors import ConfigError
from limaml.store_urls import store_scheme
from tests.conftest import SMALL


@pytest.mark.parametrize(
    "url",
    [
        "lmdb:///data/store",
        "redis://cache:6379/0",
        "redis://cache",
        "rediss://cache:6380?socket_timeout=0.2&cluster=true",
        "dynamodb://embeddings",
        "dynamodb://eu-west-1/embeddings?endpoint=http://127.0.0.1:5000",
    ],
)
def test_known_kinds(url: str) -> None:
    assert store_scheme(url) == url.split(":")[0]
    assert parse_application(SMALL | {"store": {"url": url}}, "tests").store.url == url


@pytest.mark.parametrize(
    "url",
    ["lmdb://relative/path", "redis:/cache", "redis://cache/name", "s3://bucket/x", "dynamodb://a/b/c", "cache:6379"],
)
def test_others_are_refused_with_the_field_and_the_forms(url: str) -> None:
    with pytest.raises(ConfigError, match=r"store\.url.*give lmdb:///absolute/path, redis://host:port/db"):
        store_scheme(url)
    with pytest.raises(ConfigError, match=r"store\.url.*give lmdb:///absolute/path"):
        parse_application(SMALL | {"store": {"url": url}}, "tests")


@pytest.mark.parametrize("url", ["redis://user:hunter2@cache:6379/0", "rediss://cache?db=1&password=hunter2"])
def test_a_password_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(ConfigError, match="give them by environment variables") as refused:
        store_scheme(url)
    assert "hunter2" not in str(refused.value)
    with pytest.raises(ConfigError, match="give them by environment variables") as refused:
        parse_application(SMALL | {"store": {"url": url}}, "tests")
    assert "hunter2" not in str(refused.value)
