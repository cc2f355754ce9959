"""``docs/testing.md``: its files, word for word, as a user's own tests; and what it refuses."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import uuid
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from celery import Celery
from kombu.transport.virtual.base import Transport

from celery_lanes import Lanes, Settings
from celery_lanes.errors import ConfigError
from celery_lanes.store.calls import Call
from celery_lanes.store.memory.store import MemoryStore
from celery_lanes.store.rules import Policy
from celery_lanes.testing.memory import _emptied, serving
from tests import services
from tests.waiting import until

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/testing.md").read_text()


def test_the_pages_tests_pass_in_a_folder_of_their_own(tmp_path):
    files = dict(re.findall(r"```python\n# (\w+\.py)\n(.*?)```", PAGE, re.DOTALL))
    for name, code in files.items():
        (tmp_path / name).write_text(code)

    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "test_shop.py", "test_llm.py"],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert set(files) == {"shop.py", "test_shop.py", "test_llm.py"}
    assert "3 passed" in ran.stdout, ran.stdout


STARTING = """
import sys
from celery_lanes.testing.rabbitmq import EmbeddedRabbitMQ
server = EmbeddedRabbitMQ(sys.argv[1])
server.spawn()
print(server.pid, flush=True)
sys.stdin.read()
"""


@pytest.mark.rabbitmq
@pytest.mark.crash
def test_a_rabbitmq_ends_with_who_started_it_also_by_kill_9():
    command = [sys.executable, "-c", STARTING, services.rabbitmq_program()]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as owner:
        pid = int(owner.stdout.readline())
        started = psutil.Process(owner.pid).children(recursive=True)

        owner.kill()

    assert pid in {process.pid for process in started}
    assert len(started) >= 2  # and Erlang's name service
    until(lambda: not any(map(is_alive, started)))


def is_alive(process):
    with suppress(psutil.NoSuchProcess):
        return process.status() != psutil.STATUS_ZOMBIE
    return False


@pytest.mark.parametrize(
    ("broker", "store"),
    [("redis://localhost", "memory://"), ("memory://", "redis://localhost")],
    ids=["broker", "store"],
)
def test_serving_refuses_what_is_not_in_memory(broker, store):
    app = Celery("shop", broker=broker)
    Lanes(app, Settings.parse({"store": {"url": store}}))

    with pytest.raises(ConfigError, match="memory://"), serving(app):
        pass


def test_a_worker_ends_when_its_test_does_and_has_served_what_the_settings_name(monkeypatch):
    url, waits, drain = f"memory://{uuid.uuid4().hex}", [], Transport.drain_events
    rules = [{"match": "gpu/*", "lane": "imagine"}]
    app = Celery("shop", broker="memory://", backend="cache+memory://", set_as_current=False)
    Lanes(app, Settings.parse({"store": {"url": url}, "lanes": {"ollama": {}}, "rules": rules}))

    @app.task(shared=False)
    def ask(model):
        return model

    def noted(self, connection, timeout=None):
        try:
            drain(self, connection, timeout)
        except TimeoutError:
            waits.append(timeout)
            raise

    monkeypatch.setattr(Transport, "drain_events", noted)
    with serving(app):
        for model in ("ollama/x", "gpu/x", "default/x"):
            assert ask.delay(model).get(timeout=5) == model
        waits.clear()

    assert len(waits) < 2  # Celery waits for the time it was in, and then once more


def test_a_test_that_fails_leaves_no_calls_to_the_next():
    store = MemoryStore()
    store.admit("ollama", [Call(id="c", task_id="t", task="x")], policy=Policy.FAIR)

    with pytest.raises(AssertionError), _emptied(store):
        raise AssertionError

    assert store.lanes() == []
