"""Verbs that read a clock of the test's own instead of the server's, and give turns sooner."""

from __future__ import annotations

from hashlib import sha1

from redis import Redis
from redis.exceptions import NoScriptError

from celery_lanes.store import lua
from tests.store.driving import FakeClock

KEY = "clock"
TIME = """local time = redis.call('TIME')
  now = time[1] * 1000 + math.floor(time[2] / 1000)"""


TURNS = "local TURN_EVERY, FORGET_AT_ONCE = 20,"
TURN_EVERY = 3
"""Grants to a turn of a lower level: few calls wait in a test at once."""


def clocked(source: str) -> str:
    assert source.count(TIME) == 1
    assert (TURNS in source) == ("TURN_EVERY" in source)
    source = source.replace(TURNS, TURNS.replace("20", str(TURN_EVERY)))
    return source.replace(TIME, f"now = tonumber(redis.call('GET', '{KEY}'))")


class ServerClock(FakeClock):
    """A clock that memory and a server share; a server of one's own, for it has one such key."""

    def __init__(self, client: Redis) -> None:
        super().__init__()
        self._client = client
        self.sleep_ms(1)

    def sleep_ms(self, ms: float) -> None:
        super().sleep_ms(ms)
        self._client.set(KEY, self.now)


class ClockedFunctions:
    def words(self, verb: str) -> tuple[str, str]:
        return "FCALL", f"clocked_{verb}"

    def lesson(self, verb: str, error: Exception) -> tuple[str, ...] | None:
        if "Function not found" not in str(error):
            return None
        library = lua.library()
        return (
            "FUNCTION",
            "LOAD",
            "REPLACE",
            clocked(library.source).replace(library.name, "clocked"),
        )


class ClockedScripts:
    def words(self, verb: str) -> tuple[str, str]:
        source = clocked(lua.load(verb).source)
        return "EVALSHA", sha1(source.encode()).hexdigest()

    def lesson(self, verb: str, error: Exception) -> tuple[str, ...] | None:
        if not isinstance(error, NoScriptError):
            return None
        return "SCRIPT", "LOAD", clocked(lua.load(verb).source)
