"""The store thread's own connections to the store: one for its verbs, one for the store's calls."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection

from celery_lanes.errors import StoreUnavailable
from celery_lanes.store.base import Store, Wakeups

logger = logging.getLogger(__name__)


class Link:
    """Opened at their first use, and again after ``close``.

    Attributes:
        ears: where the store calls, if it is listened to.
    """

    def __init__(self, open_store: Callable[[], Store], incarnation: str) -> None:
        self.ears: Wakeups | None = None
        self._open_store = open_store
        self._incarnation = incarnation
        self._store: Store | None = None

    @property
    def store(self) -> Store:
        """Give the store. Opening it may fail with ``StoreUnavailable``."""
        if self._store is None:
            self._store = self._open_store()
        return self._store

    def listen(self) -> bool:
        """Listen, and say whether that has begun only now. Raises ``StoreUnavailable``."""
        if self.ears is not None:
            return False
        self.ears = self.store.listen(self._incarnation)
        return True

    def drain(self) -> Collection[str]:
        """Name the lanes that the store has called for.

        A lost ear is no error: it may have been at one node of a cluster, and others call as well.
        """
        try:
            return self.ears.drain() if self.ears is not None else ()
        except StoreUnavailable:
            self._deafen()
            return ()

    def close(self) -> None:
        """Close both; whatever comes of it."""
        self._deafen()
        try:
            if self._store is not None:
                self._store.disconnect()
        except Exception:
            logger.exception("celery_lanes: cannot close the connections to the store")

    def _deafen(self) -> None:
        ears, self.ears = self.ears, None
        try:
            if ears is not None:
                ears.close()
        except Exception:
            logger.exception("celery_lanes: cannot close the ear at the store")
