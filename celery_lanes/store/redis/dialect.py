"""How a server is asked for a verb: as a function or a script that it keeps, or with the source.

Redis 7 and Valkey have functions, which are twice as fast; Redis 6.2 has scripts only. A user may
be allowed neither to load, and a full server takes no functions.
"""

from __future__ import annotations

from typing import Protocol

from redis.exceptions import NoPermissionError, NoScriptError, ResponseError

from celery_lanes.store.redis import lua
from celery_lanes.store.redis.line import Argument


class Dialect(Protocol):
    """One way to ask."""

    def words(self, verb: str) -> tuple[Argument, ...]:
        """Give what a command for a verb begins with, before its keys."""

    def lesson(self, verb: str, error: ResponseError) -> tuple[Argument, ...] | None:
        """Give the command that teaches a server the verb, if that is what it lacks."""

    @property
    def instead(self) -> Dialect | None:
        """Give the dialect for a server, or a user, that this one is not for."""


class Functions:
    """FCALL. The library is named after its content, so that two versions may share a server."""

    def words(self, verb: str) -> tuple[Argument, ...]:
        """Give FCALL and the function's name."""
        return "FCALL", lua.library(verb).function(verb)

    def lesson(
        self,
        verb: str,
        error: ResponseError,
    ) -> tuple[Argument, ...] | None:
        """Load the library; others may do so at the same time."""
        if "Function not found" not in str(error):
            return None
        return "FUNCTION", "LOAD", "REPLACE", lua.library(verb).source

    @property
    def instead(self) -> Dialect:
        """Give the older one."""
        return Scripts()


class Scripts:
    """EVALSHA."""

    def words(self, verb: str) -> tuple[Argument, ...]:
        """Give EVALSHA and the script's sum."""
        return "EVALSHA", lua.load(verb).sha

    def lesson(self, verb: str, error: ResponseError) -> tuple[Argument, ...] | None:
        """Load the script."""
        is_unknown = isinstance(error, NoScriptError)
        return ("SCRIPT", "LOAD", lua.load(verb).source) if is_unknown else None

    @property
    def instead(self) -> Dialect:
        """Give the one that needs nothing."""
        return Sources()


class Sources:
    """EVAL: the whole script each time."""

    instead = None

    def words(self, verb: str) -> tuple[Argument, ...]:
        """Give EVAL and the script."""
        return "EVAL", lua.load(verb).source

    def lesson(self, verb: str, error: ResponseError) -> None:
        """Have nothing to teach."""


def is_not_spoken(error: ResponseError) -> bool:
    """Tell whether a server does not have a command, or will not run it for this user."""
    return isinstance(error, NoPermissionError) or "unknown command" in str(error).lower()
