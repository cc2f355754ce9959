"""Servers that any test may ask for; each is started once, when the first test wants it."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
from hypothesis import settings

from tests import services

settings.register_profile("slow machines", deadline=None)  # a stall is no failure
settings.load_profile("slow machines")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--nodes",
        choices=["docker", "process"],
        default="process",
        help="what the nodes of cluster tests are; docker needs a Docker engine",
    )


@pytest.fixture(autouse=True)
def _log_level() -> None:
    """Start from Python's own: a worker that another test ran in this process has set it."""
    logging.getLogger().setLevel(logging.WARNING)


@pytest.fixture(scope="session")
def rabbitmq(tmp_path_factory: pytest.TempPathFactory) -> Iterator[services.Server]:
    """A RabbitMQ of the session's own; mark the test ``rabbitmq``."""
    with services.rabbitmq_server(tmp_path_factory.mktemp("rabbitmq")) as server:
        yield server


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[services.Server]:
    """The machine's own ``redis-server``, beside the embedded Valkey."""
    with services.redis_server(tmp_path_factory.mktemp("redis")) as server:
        yield server
