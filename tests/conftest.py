"""Servers that any test may ask for; each is started once, when the first test wants it."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
from celery import _state
from hypothesis import settings

import celery_lanes.tasks  # noqa: F401 # it is every app's, and not to be forgotten with one
from celery_lanes.testing.rabbitmq import EmbeddedRabbitMQ
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


@pytest.fixture(autouse=True, scope="module")
def _shared_tasks() -> Iterator[None]:
    """Let the apps of the next module, in the same process, have tasks of the same names."""
    known = set(_state._on_app_finalizers)
    yield
    _state._on_app_finalizers.intersection_update(known)


@pytest.fixture(autouse=True)
def _log_level() -> None:
    """Start from Python's own: a worker that another test ran in this process has set it."""
    logging.getLogger().setLevel(logging.WARNING)


@pytest.fixture(scope="session")
def rabbitmq() -> Iterator[EmbeddedRabbitMQ]:
    """A RabbitMQ of the session's own; mark the test ``rabbitmq``."""
    with EmbeddedRabbitMQ(services.rabbitmq_program()) as server:
        yield server
