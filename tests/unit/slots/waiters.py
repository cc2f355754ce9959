"""How tests wait for slots, and see who has them."""

from __future__ import annotations

import threading

import pytest

from celery_lanes.app import Lanes
from celery_lanes.errors import LanesError
from celery_lanes.store.attempts import Release
from celery_lanes.store.memory.store import MemoryStore

DEADLINE_S = 10


def counts(lanes: Lanes) -> tuple[int, int]:
    now = lanes.parts.store.snapshot("ollama")
    return now.running, now.waiting


def ends_of(store: MemoryStore) -> list[Release]:
    """Note what the store is told of the ends of slots, once it has heard it."""
    ends, claim = [], store.claim

    def noted(lane, **said):
        answer = claim(lane, **said)
        ends.extend(said["releases"])
        return answer

    store.claim = noted
    return ends


class Waiter(threading.Thread):
    """Waits for a slot in a thread of its own, and keeps it until it is told."""

    def __init__(self, slot) -> None:
        super().__init__(daemon=True)
        self.slot, self.error = slot, None
        self.has_it, self.may_go = threading.Event(), threading.Event()
        self.start()

    def run(self) -> None:
        try:
            with self.slot:
                self.has_it.set()
                self.may_go.wait(DEADLINE_S)
        except LanesError as error:
            self.error = error
            self.has_it.set()

    def go(self) -> None:
        self.may_go.set()
        self.join(DEADLINE_S)
        assert not self.is_alive()


async def held(slot) -> None:
    async with slot:
        pytest.fail("it was let in")
