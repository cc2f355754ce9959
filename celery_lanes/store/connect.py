"""From a url to a store."""

from __future__ import annotations

from threading import Lock

from celery_lanes.store.base import Store
from celery_lanes.store.memory import MemoryStore

_memory_lock = Lock()
_memory_stores: dict[str, MemoryStore] = {}


def open_store(url: str, *, prefix: str = "lanes", durability: str = "store") -> Store:
    """Open the store at a url; ``memory://`` is one store per process and url."""
    if url.startswith("memory:"):
        with _memory_lock:
            return _memory_stores.setdefault(url, MemoryStore())
    raise NotImplementedError(url)
