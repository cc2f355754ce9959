"""The lanes of one prefix on a server: their keys, and the wire to them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from redis.exceptions import OutOfMemoryError

from celery_lanes.store.keys import Keys, checked_name, random_token
from celery_lanes.store.redis.wire import Client, Wire


class Prefix:
    """The lanes whose keys begin alike, and the wire to their server."""

    def __init__(
        self,
        client: Client,
        prefix: str = "lanes",
        durability: str = "store",
        token: Callable[[], str] = random_token,
    ) -> None:
        self._keys = Keys(prefix)
        self._wire = Wire(client, self._keys, durability)
        self._token = token
        self._known_lanes: set[str] = set()

    def _note_lane(self, lane: str) -> None:
        checked_name(lane, "the lane's name")
        if lane in self._known_lanes:
            return
        self._wire.ask(self._keys.lanes, lambda server: self._note_at(server, lane))

    def _note_at(self, server: Any, lane: str) -> None:
        with suppress(OutOfMemoryError):  # rules must go in all the same
            server.sadd(self._keys.lanes, lane)
            self._known_lanes.add(lane)
