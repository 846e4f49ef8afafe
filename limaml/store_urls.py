"""URLs of online stores: which kinds there are, and that none holds a password."""

import re
from urllib.parse import parse_qs, urlsplit

from limaml.errors import ConfigError

_FORMS = {
    "lmdb": r"lmdb:///[^?#]+",
    "redis": r"redis://[^/@]+(/\d*)?(\?.*)?",
    "rediss": r"rediss://[^/@]+(/\d*)?(\?.*)?",
    "dynamodb": r"dynamodb://[\w.-]+(/[\w.-]+)?/?(\?.*)?",
}


def store_scheme(url: str) -> str:
    """The kind of a store, after a look at its whole URL.

    Raises:
        ConfigError: there is no such kind, or the URL holds a user or password.
    """
    parts = urlsplit(url)
    if "@" in parts.netloc or parse_qs(parts.query, keep_blank_values=True).keys() & {"username", "password"}:
        # Without the URL itself: what is wrong in it must not be printed.
        raise ConfigError(
            "store.url: holds a user or password; give them by environment variables, see docs/stores_redis.md"
        )
    scheme = parts.scheme
    if scheme not in _FORMS or not re.fullmatch(_FORMS[scheme], url):
        raise ConfigError(
            f"store.url {url!r}: give lmdb:///absolute/path, redis://host:port/db, rediss://host:port/db, "
            "dynamodb://table or dynamodb://region/table"
        )
    return scheme
