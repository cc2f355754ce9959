"""What endangers the promises: a server's own settings."""

from __future__ import annotations

from typing import Any

from redis.exceptions import NoPermissionError, ResponseError

OLDEST_SERVER = (6, 2)


def warnings(server: Any) -> list[str]:
    """Say what endangers the promises: age, eviction, persistence. Some servers do not tell."""
    try:
        info: dict[str, Any] = server.info()
        config: dict[str, str] = server.config_get("maxmemory*") | server.config_get("save")
    except (NoPermissionError, ResponseError):
        return ["the store does not tell its settings; check persistence and eviction yourself"]
    found = [_age(info), _eviction(config), _persistence(info, config)]
    return [warning for warning in found if warning]


def _age(info: dict[str, Any]) -> str | None:
    version = str(info.get("valkey_version") or info.get("redis_version", "0"))
    if tuple(int(part) for part in version.split(".")[:2]) >= OLDEST_SERVER:
        return None
    return f"expected a server from version 6.2 on, got {version}"


def _eviction(config: dict[str, str]) -> str | None:
    policy = config.get("maxmemory-policy", "noeviction")
    if config.get("maxmemory", "0") == "0" or policy == "noeviction":
        return None
    return (
        f'expected maxmemory-policy to be "noeviction", got "{policy}": it may evict waiting calls'
    )


def _persistence(info: dict[str, Any], config: dict[str, str]) -> str | None:
    if info.get("aof_enabled") or config.get("save"):
        return None
    return (
        "the store keeps nothing on disk: what waits is lost when it restarts; set appendonly yes,"
        " or have it save"
    )
