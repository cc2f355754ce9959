"""How a server is asked for a verb: as a function that it keeps, or as a script.

Redis 7 and Valkey have functions, which are twice as fast; Redis 6.2 has scripts only, and a user
may not be allowed to load functions.
"""

from __future__ import annotations

from typing import Protocol

from redis.exceptions import NoPermissionError, NoScriptError, ResponseError

from celery_lanes.store import lua
from celery_lanes.store.line import Argument


class Dialect(Protocol):
    """One way to ask."""

    def words(self, verb: str) -> tuple[Argument, ...]:
        """Give what a command for a verb begins with, before its keys."""

    def lesson(self, verb: str) -> tuple[Argument, ...]:
        """Give the command that teaches a server the verb."""

    def is_unknown(self, error: ResponseError) -> bool:
        """Tell whether the server has not been taught the verb yet."""


class Functions:
    """FCALL. The library is named after its content, so that two versions may share a server."""

    def words(self, verb: str) -> tuple[Argument, ...]:
        """Give FCALL and the function's name."""
        return "FCALL", lua.library().function(verb)

    def lesson(self, verb: str) -> tuple[Argument, ...]:  # noqa: ARG002 # all verbs at once
        """Load the library; others may do so at the same time."""
        return "FUNCTION", "LOAD", "REPLACE", lua.library().source

    def is_unknown(self, error: ResponseError) -> bool:
        """Know what servers say."""
        return "Function not found" in str(error)


class Scripts:
    """EVALSHA."""

    def words(self, verb: str) -> tuple[Argument, ...]:
        """Give EVALSHA and the script's sum."""
        return "EVALSHA", lua.load(verb).sha

    def lesson(self, verb: str) -> tuple[Argument, ...]:
        """Load the script."""
        return "SCRIPT", "LOAD", lua.load(verb).source

    def is_unknown(self, error: ResponseError) -> bool:
        """Know what servers say."""
        return isinstance(error, NoScriptError)


def has_no_functions(error: ResponseError) -> bool:
    """Tell whether a server cannot keep functions, or will not for this user."""
    return isinstance(error, NoPermissionError) or "unknown command" in str(error)
