"""Verbs that read a clock of the test's own instead of the server's, and whose bounds are small."""

from __future__ import annotations

from hashlib import sha1

from redis import Redis
from redis.exceptions import NoScriptError

from celery_lanes.store.redis import lua
from tests.store.driving import FakeClock

KEY = "clock"
TIME = """local time = redis.call('TIME')
  now = time[1] * 1000 + math.floor(time[2] / 1000)"""


TURN_EVERY, LOOKED_AT, PLACES_READ = 3, 2, 2
"""Grants to a turn of a lower level, callers looked at, calls of each that are read at once: few
calls wait in a test."""

BOUNDS = {
    "local TURN_EVERY, FORGET_AT_ONCE = 20,": f"local TURN_EVERY, FORGET_AT_ONCE = {TURN_EVERY},",
    "local CALLERS_LOOKED_AT, PLACES_READ, RUNNING_LOOKED_AT = 250, 4,": (
        f"local CALLERS_LOOKED_AT, PLACES_READ, RUNNING_LOOKED_AT = {LOOKED_AT}, {PLACES_READ},"
    ),
}


def clocked(source: str) -> str:
    assert source.count(TIME) == 1
    for bound, smaller in BOUNDS.items():
        assert (bound in source) == (bound.split()[2] in source)
        source = source.replace(bound, smaller)
    return source.replace(TIME, f"now = tonumber(redis.call('GET', '{KEY}'))")


class ServerClock(FakeClock):
    """A clock that memory and a server share; a server of one's own, for it has one such key."""

    has_gone_back = False

    def __init__(self, client: Redis) -> None:
        super().__init__()
        self._client = client
        self.sleep_ms(1)

    def sleep_ms(self, ms: float) -> None:
        super().sleep_ms(ms)
        self._client.set(KEY, self.now)

    def set_back(self, ms: int) -> None:
        """Go on from an earlier time, as after a step by NTP or a failover."""
        self.has_gone_back = True
        self.now -= ms
        self._client.set(KEY, self.now)


class ClockedFunctions:
    def words(self, verb: str) -> tuple[str, str]:
        return "FCALL", f"{self._name(verb)}_{verb}"

    def lesson(self, verb: str, error: Exception) -> tuple[str, ...] | None:
        if "Function not found" not in str(error):
            return None
        library = lua.library(verb)
        return (
            "FUNCTION",
            "LOAD",
            "REPLACE",
            clocked(library.source).replace(library.name, self._name(verb)),
        )

    def _name(self, verb: str) -> str:
        return lua.library(verb).name.replace("lanes", "clocked")


class ClockedScripts:
    def words(self, verb: str) -> tuple[str, str]:
        source = clocked(lua.load(verb).source)
        return "EVALSHA", sha1(source.encode()).hexdigest()

    def lesson(self, verb: str, error: Exception) -> tuple[str, ...] | None:
        if not isinstance(error, NoScriptError):
            return None
        return "SCRIPT", "LOAD", clocked(lua.load(verb).source)
