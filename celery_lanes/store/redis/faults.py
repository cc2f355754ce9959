"""What redis-py raises, in the store's words."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from redis import exceptions as redis_errors

from celery_lanes.errors import StoreError, StoreUnavailable

AWAY = (
    redis_errors.ConnectionError,  # with BusyLoadingError, MaxConnectionsError, AuthenticationError
    redis_errors.TimeoutError,
    redis_errors.ReadOnlyError,
    redis_errors.ClusterDownError,  # with MasterDownError
    redis_errors.RedisClusterException,
)
MOVING = (
    redis_errors.AskError,  # with MovedError
    redis_errors.TryAgainError,
    redis_errors.ClusterError,  # redis-py has tried it 16 times
)
"""What a cluster says while it moves a lane to another node, or redis-py after it has heard it."""
PASSING = (
    "READONLY",
    "LOADING",
    "BUSY ",
    "MISCONF",
    "NOREPLICAS",
    "MASTERDOWN",
    "CLUSTERDOWN",
    "TRYAGAIN",
    "UNBLOCKED",
    "cannot be used with replica",
)
"""What an error from inside a script holds (older servers wrap it) if trying later may help."""

OUT_OF_OFFICE = ("READONLY", "NOREPLICAS", "MASTERDOWN")
"""What a server says that may have been replaced as master: better find the master again."""


def is_out_of_office(error: Exception) -> bool:
    """Tell whether the server that said this may be no master any more.

    redis-py knows it too and asks the sentinels again, but not from inside a script before Redis 7.
    """
    return any(word in str(error) for word in OUT_OF_OFFICE)


def is_passing(error: Exception) -> bool:
    """Tell whether trying later may help, perhaps with another server."""
    return isinstance(error, (*AWAY, *MOVING)) or any(word in str(error) for word in PASSING)


@contextmanager
def translated() -> Iterator[None]:
    """Raise the store's errors for redis-py's. Messages name hosts and reasons, never secrets."""
    try:
        yield
    except AWAY as error:
        raise StoreUnavailable(f"the lane store cannot be reached: {error}") from error
    except MOVING as error:
        raise StoreUnavailable(f"the cluster is moving the lane, try later: {error}") from error
    except redis_errors.RedisError as error:
        raise of_answer(error) from error


def of_answer(error: redis_errors.RedisError) -> StoreError:
    """Word what a server has answered."""
    text = str(error)
    if isinstance(error, redis_errors.OutOfMemoryError) or "OOM command not allowed" in text:
        return StoreUnavailable(
            "the lane store is full (maxmemory): it takes no new calls until some have ended; "
            "raise maxmemory"
        )
    if is_passing(error):
        return StoreUnavailable(f"the lane store cannot serve now: {text}")
    return StoreError(f"the lane store refused a request: {text}")
