"""Where a key lives in a Redis Cluster: the one node that has its slot, until the slot moves.

redis-py would follow an ASK, for up to 16 times. That finds a lane nowhere while its slot moves, as
some of its keys are always empty and a cluster takes those for gone; it fails with AttributeError
on a node that has just joined; and it has no way for WAIT, which names no key.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

from redis import RedisError
from redis.exceptions import MovedError, RedisClusterException

from celery_lanes.store.redis.faults import AWAY

T = TypeVar("T")


def at_home(cluster: Any, key: str, ask: Callable[[Any], T]) -> T:
    """Ask the node that has a key; if the key has moved, ask once more where it is now.

    After any error that may come of a change in the cluster, the next question finds the change.
    """
    try:
        return ask(cluster.get_redis_connection(cluster.get_node_from_key(key)))
    except MovedError as moved:
        look_anew(cluster)
        home = cluster.get_node(host=moved.host, port=moved.port)
        if home is None:
            raise
        return ask(cluster.get_redis_connection(home))
    except AWAY:
        look_anew(cluster)
        raise


def at_any(cluster: Any, key: str, ask: Callable[[Any], T]) -> T:
    """Ask a key's home what any node can answer, and the others if that is away."""
    try:
        return at_home(cluster, key, ask)
    except AWAY:
        for node in cluster.get_primaries():
            with suppress(*AWAY):
                return ask(cluster.get_redis_connection(node))
        raise


def look_anew(cluster: Any) -> None:
    """See which node has what, after a change."""
    with suppress(RedisError, RedisClusterException):  # what is raised is the first error
        cluster.nodes_manager.initialize()
