"""From a url to a store.

::

    memory://                                        one store per process and url
    redis://[user:password@]host:port/db             also rediss:// (TLS), valkey://, valkeys://
    unix:///path/to/socket?db=0                      also redis+socket://
    sentinel://host:port;sentinel://host:port/0?master_name=x    also redis+sentinel://
    redis+cluster://host:port                        also rediss+cluster://
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from threading import Lock
from typing import Any, cast
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

from redis import Redis, Sentinel
from redis.backoff import NoBackoff
from redis.cluster import RedisCluster
from redis.retry import Retry

from celery_lanes.errors import StoreError
from celery_lanes.store.base import Store
from celery_lanes.store.health import HealthConfig
from celery_lanes.store.keys import checked_name
from celery_lanes.store.memory.health import MemoryHealth
from celery_lanes.store.memory.store import MemoryStore
from celery_lanes.store.memory.transcripts import MemoryTranscripts
from celery_lanes.store.redis.faults import translated
from celery_lanes.store.redis.health import RedisHealth
from celery_lanes.store.redis.store import RedisStore
from celery_lanes.store.redis.transcripts import RedisTranscripts
from celery_lanes.store.redis.wire import Client, parse_durability
from celery_lanes.store.transcripts import Transcripts

SOCKET_TIMEOUT_S = 1.0

HEALTH_TIMEOUT_S = 0.25
"""An LLM call waits so long to hear of its target's health, and then does without."""

_OTHER_NAMES = {
    "valkey": "redis",
    "valkeys": "rediss",
    "redis+socket": "unix",
    "redis+sentinel": "sentinel",
    "valkey+cluster": "redis+cluster",
    "valkeys+cluster": "rediss+cluster",
}

Options = dict[str, Any]

_memory_lock = Lock()
_memory_stores: dict[str, MemoryStore] = {}
_memory_transcripts: dict[str, MemoryTranscripts] = {}


def open_store(url: str, *, prefix: str = "lanes", durability: str = "store") -> Store:
    """Open the store at a url. No message or ``repr`` tells what the url keeps secret."""
    checked_name(prefix, "the store's prefix")
    parse_durability(durability)
    if url.startswith("memory:"):
        with _memory_lock:
            return _memory_stores.setdefault(f"{url} {prefix}", MemoryStore())
    return RedisStore(_connect(url), prefix, durability)


def open_health(
    url: str, *, prefix: str = "lanes", config: HealthConfig | None = None
) -> MemoryHealth | RedisHealth:
    """Open the health of LLM targets in the store at a url; in memory it is the caller's own."""
    checked_name(prefix, "the store's prefix")
    if url.startswith("memory:"):
        return MemoryHealth(config)
    return RedisHealth(_connect(url, timeout_s=HEALTH_TIMEOUT_S), prefix, config)


def open_transcripts(url: str, *, prefix: str = "lanes") -> Transcripts:
    """Open the transcripts beside the store at a url, over connections of their own."""
    checked_name(prefix, "the store's prefix")
    if url.startswith("memory:"):
        with _memory_lock:
            return _memory_transcripts.setdefault(f"{url} {prefix}", MemoryTranscripts())
    return RedisTranscripts(_connect(url), prefix)


def _connect(url: str, *, timeout_s: float = SOCKET_TIMEOUT_S) -> Client:
    scheme, _, place = url.partition("://")
    scheme = _OTHER_NAMES.get(scheme, scheme)
    connect = _BY_SCHEME.get(scheme)
    if connect is None:
        known = ", ".join(["memory", *_BY_SCHEME, *_OTHER_NAMES])
        raise StoreError(f"expected the store's url to begin with one of {known}, got {scheme!r}")
    if "decode_responses" in place:
        raise StoreError("expected the store's url to have no decode_responses: calls are bytes")
    with suppress(ValueError, TypeError), translated():  # they may quote the url, and its secrets
        return connect(scheme, place, _options(timeout_s))
    raise StoreError(f"expected a {scheme}:// url for the store; this one cannot be read")


def _options(timeout_s: float) -> Options:
    """Fail soon and say so: the agent, who knows which request it was, does the retrying."""
    return {
        "socket_timeout": timeout_s,
        "socket_connect_timeout": timeout_s,
        "retry": Retry(NoBackoff(), 0),
        "protocol": 2,
    }


def _one_server(scheme: str, place: str, options: Options) -> Redis:
    place = place.replace("virtual_host=", "db=").replace("ssl_cert_reqs=CERT_", "ssl_cert_reqs=")
    place = _with_lower_cert_reqs(place)
    return Redis.from_url(f"{scheme}://{place}", **options, **_tls_options(scheme, place))


def _with_lower_cert_reqs(place: str) -> str:
    """Take Celery's spelling (CERT_REQUIRED) for redis-py's (required)."""
    for word in ("REQUIRED", "OPTIONAL", "NONE"):
        place = place.replace(f"ssl_cert_reqs={word}", f"ssl_cert_reqs={word.lower()}")
    return place


def _cluster(scheme: str, place: str, options: Options) -> RedisCluster:
    options = options | _tls_options(scheme, place)
    return RedisCluster.from_url(f"{scheme.removesuffix('+cluster')}://{place}", **options)


def _tls_options(scheme: str, place: str) -> dict[str, bool]:
    """Have host names checked, as redis-py does by itself from 6 on; the url may say otherwise."""
    is_checked = scheme.startswith("rediss") and "ssl_cert_reqs=none" not in place
    return {"ssl_check_hostname": True} if is_checked else {}


def _sentinel(_scheme: str, place: str, options: Options) -> Redis:
    parts = [urlsplit(f"sentinel://{part.rpartition('://')[2]}") for part in place.split(";")]
    query = parse_qs(parts[-1].query)
    if "master_name" not in query:
        raise StoreError("expected the sentinel url to end with ?master_name=..., it does not")
    own = options | _credentials(parts)
    own["db"] = int(parts[-1].path.strip("/") or 0)
    hosts = [(part.hostname or "localhost", part.port or 26379) for part in parts]
    sentinel_options = options | _sentinel_credentials(query)
    sentinel: Any = Sentinel(hosts, sentinel_kwargs=sentinel_options, **own)  # type: ignore[no-untyped-call] # redis-py
    return cast("Redis", sentinel.master_for(query["master_name"][0]))


def _credentials(parts: list[SplitResult]) -> dict[str, str]:
    """Take the servers' user and password from the first part that has them."""
    for part in parts:
        if part.password:
            user = {"username": unquote(part.username)} if part.username else {}
            return user | {"password": unquote(part.password)}
    return {}


def _sentinel_credentials(query: dict[str, list[str]]) -> dict[str, str]:
    """Take what the sentinels themselves ask for: ?sentinel_username=...&sentinel_password=..."""
    names = ("username", "password")
    return {name: query[f"sentinel_{name}"][0] for name in names if f"sentinel_{name}" in query}


_BY_SCHEME: dict[str, Callable[[str, str, Options], Client]] = {
    "redis": _one_server,
    "rediss": _one_server,
    "unix": _one_server,
    "sentinel": _sentinel,
    "redis+cluster": _cluster,
    "rediss+cluster": _cluster,
}
