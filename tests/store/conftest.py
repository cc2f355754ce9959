"""Every store that the promises are tested on."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest

from celery_lanes.store.base import Store
from celery_lanes.store.connect import open_store
from celery_lanes.store.memory.store import MemoryStore
from celery_lanes.store.redis.dialect import Scripts
from celery_lanes.testing.embedded import EmbeddedValkey
from tests import services
from tests.store.driving import Driver, FakeClock, RealClock


@pytest.fixture(scope="session")
def valkey() -> Iterator[EmbeddedValkey]:
    with EmbeddedValkey() as server:
        yield server


@pytest.fixture(scope="session")
def redis() -> Iterator[EmbeddedValkey]:
    with EmbeddedValkey(program=services.redis_program()) as server:
        yield server


@pytest.fixture(params=["memory", "valkey", "redis"])
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def clock(kind: str) -> FakeClock | RealClock:
    return FakeClock() if kind == "memory" else RealClock()


@pytest.fixture
def store(kind: str, clock, request: pytest.FixtureRequest) -> Iterator[Store]:
    if kind == "memory":
        yield MemoryStore(clock)
        return
    server: EmbeddedValkey = request.getfixturevalue(kind)
    store = open_store(server.url(), prefix=f"test-{uuid.uuid4().hex}")
    if kind == "redis":  # as Redis 6.2, which has no functions
        store._wire.speak(Scripts())
    yield store
    store.disconnect()


@pytest.fixture
def lane(store: Store, clock) -> Driver:
    return Driver(store, clock)
