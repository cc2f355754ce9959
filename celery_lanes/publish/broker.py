"""The app's own broker: what is published to another one is none of our calls."""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

from celery_lanes.once import once


class OwnBroker:
    """Tells an app's own broker from others; of each connection once."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self._known: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()

    def is_behind(self, connection: Any) -> bool:
        """Whether a connection leads to it; ``None`` is the app's own connection."""
        if connection is None:
            return True
        if (is_own := self._known.get(connection)) is None:
            is_own = self._known[connection] = _address(connection) == self._address
        return is_own

    @once
    def _address(self) -> tuple[str, ...]:
        return _address(self._app.connection_for_write())


def _address(connection: Any) -> tuple[str, ...]:
    """Say where a connection leads; with failover hosts, to any of them."""
    return tuple(connection.alt) or (connection.as_uri(),)
