"""Real servers for tests, started by hand on free ports and ended with the test process."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from typing import NoReturn

import pytest

from celery_lanes.errors import LanesError
from celery_lanes.testing.rabbitmq import find_program


def unavailable(reason: str) -> NoReturn:
    """Skip the test on a laptop, fail it in CI."""
    if os.environ.get("CI", "").lower() in {"1", "true", "yes"}:
        pytest.fail(f"{reason}, and CI must have it", pytrace=False)
    pytest.skip(reason)


def redis_program() -> str:
    """Find the Redis beside the embedded Valkey: ``$LANES_REDIS_PROGRAM``, else the machine's."""
    program = shutil.which(os.environ.get("LANES_REDIS_PROGRAM") or "redis-server")
    return program or unavailable("redis-server is not installed")


def rabbitmq_program() -> str:
    """Find RabbitMQ, which takes 4 s to start; mark the test ``rabbitmq``."""
    try:
        return find_program()
    except LanesError as missing:
        unavailable(str(missing))


def version_of(program: str) -> tuple[int, ...]:
    """Give what a server's program says of itself; a Valkey's version, the first is 7.2."""
    said = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
    return tuple(map(int, re.search(r"v=(\d+)\.(\d+)", said).groups()))  # type: ignore[union-attr]


def need(version: tuple[int, ...], program: str) -> None:
    """Skip a test of what an older server does not have."""
    if version_of(program) < version:
        pytest.skip(f"needs a server of version {'.'.join(map(str, version))}")
