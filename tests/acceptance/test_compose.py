"""docker-compose.yml without Docker: the same commands, as processes of this machine."""

from __future__ import annotations

import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
from contextlib import ExitStack, suppress
from itertools import pairwise
from pathlib import Path

import httpx
import pytest

from celery_lanes.errors import StoreUnavailable
from celery_lanes.store.connect import open_store
from celery_lanes.testing.embedded import EmbeddedValkey
from celery_lanes.testing.llm_stub import LLMStub
from celery_lanes.testing.server import free_port
from tests.services import unavailable
from tests.waiting import until

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def compose():
    if importlib.util.find_spec("yaml") is None:
        unavailable("PyYAML is not installed")
    import yaml

    return yaml.safe_load((ROOT / "docker-compose.yml").read_text())


@pytest.fixture
def servers():
    with EmbeddedValkey() as valkey, LLMStub() as stub:
        yield {
            "CELERY_BROKER_URL": valkey.url(0),
            "CELERY_RESULT_BACKEND": valkey.url(1),
            "CELERY_LANES_STORE_URL": valkey.url(2),
            "LLM_OLLAMA": stub.dsn,
        }


@pytest.fixture
def start(compose, servers, tmp_path):
    with ExitStack() as exits:

        def start(service, **replaced):
            command = compose["services"][service]["command"]
            for old, new in replaced.items():
                command = command.replace(old, new)
            return exits.enter_context(Process(command, servers, tmp_path / f"{service}.log"))

        yield start


class Process:
    """One service's command, run here."""

    def __init__(self, command, env, log):
        words = [w.replace("/beat/", f"{log.parent}/") for w in shlex.split(command)]
        assert words[0] == "celery"
        self._command = [sys.executable, "-m", *words]
        path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        self._env = {**os.environ, **env, "PYTHONPATH": path}
        self._log = log

    def __enter__(self):
        with self._log.open("wb") as output:
            self._process = subprocess.Popen(
                self._command, cwd=ROOT, env=self._env, stdout=output, stderr=output
            )
        return self

    def __exit__(self, *_):
        self._process.terminate()
        try:
            self._process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def wait_for(self, text, timeout_s=40):
        def is_decided():
            return text in self.printed() or self._process.poll() is not None

        until(is_decided, timeout_s=timeout_s, story=self.printed)
        assert text in self.printed()

    def printed(self):
        return self._log.read_text(errors="replace")


def test_one_worker_for_each_of_its_lanes(compose):
    config = tomllib.loads((ROOT / "config/lanes.toml").read_text())

    workers = {n: s for n, s in compose["services"].items() if n.startswith("worker-")}

    assert set(workers) == {"worker-ollama", "worker-anthropic-default", "worker-openai"}
    for name, service in workers.items():
        lane = name.removeprefix("worker-")
        assert f"-Q lanes.{lane} -c {config['lanes'][lane]['max_concurrent']}" in service["command"]


def test_the_store_writes_to_disk_and_evicts_nothing(compose):
    command = shlex.split(compose["services"]["redis"]["command"])

    assert command[0] == "redis-server"
    assert {("--appendonly", "yes"), ("--maxmemory-policy", "noeviction")} <= {*pairwise(command)}
    assert compose["services"]["redis"]["volumes"] == ["redis:/data"]


def test_lanes_check_has_nothing_against_the_store(compose, tmp_path):
    program = shutil.which("redis-server")
    if program is None:
        unavailable("redis-server is not installed")
    port = free_port()
    words = shlex.split(compose["services"]["redis"]["command"])[1:]
    command = [program, *words, "--port", str(port), "--dir", str(tmp_path), "--save", ""]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as server:
        try:
            warnings = _store_warnings(f"redis://127.0.0.1:{port}/0")
        finally:
            server.terminate()

    assert warnings == []


def test_rabbitmq_comes_with_its_profile_only(compose):
    assert compose["services"]["rabbitmq"]["profiles"] == ["rabbitmq"]
    assert [n for n, s in compose["services"].items() if "profiles" in s] == ["rabbitmq"]


def test_worker_and_beat_start_as_written_and_a_call_goes_through(start, servers):
    worker = start("worker-ollama")
    beat = start("beat")

    worker.wait_for("ready.")
    beat.wait_for("beat: Starting...")
    called = subprocess.run(
        [sys.executable, "examples/nightly_batch.py"], cwd=ROOT, capture_output=True, text=True,
        env={**os.environ, **servers, "PYTHONPATH": str(ROOT)}, timeout=60, check=False,
    )  # fmt: skip

    assert (called.returncode, called.stderr) == (0, "")
    assert "in lane ollama" in called.stdout


@pytest.mark.parametrize("service", ["worker-anthropic-default", "worker-openai"])
def test_the_other_workers_start_as_written(start, service):
    worker = start(service)

    worker.wait_for("ready.")
    assert "Traceback" not in worker.printed()


def test_flower_starts_as_written(start):
    if importlib.util.find_spec("flower") is None:
        pytest.skip("Flower is not installed; it is none of our dependencies")
    port = free_port()

    start("flower", **{"--port=5555": f"--port={port} --address=127.0.0.1"})

    url = f"http://127.0.0.1:{port}/healthcheck"
    until(lambda: _answers(url), timeout_s=40)
    assert httpx.get(url).status_code == 200


def _answers(url):
    with suppress(httpx.TransportError):
        return bool(httpx.get(url))
    return False


def _store_warnings(url, timeout_s=10):
    store, warnings = open_store(url), []

    def is_up():
        with suppress(StoreUnavailable):
            warnings.append(store.warnings())
        return warnings

    until(is_up, timeout_s=timeout_s)
    return warnings[0]
