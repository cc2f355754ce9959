"""The examples run as their docstrings say."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import pytest

from celery_lanes.errors import StoreUnavailable
from celery_lanes.store.connect import open_store
from celery_lanes.testing.embedded import EmbeddedValkey
from celery_lanes.testing.llm_stub import Answer, LLMStub
from celery_lanes.testing.server import free_port
from celery_lanes.testing.workers import WorkerProcess
from tests.waiting import until

ROOT = Path(__file__).parents[2]
SAID = {
    "shop": [
        r"by ollama, waited \d+\.\d\d s\n.*by ollama, waited",
        r"bob had 7 words summarised by ollama/llama3\.1:8b in lane ollama\n",
    ],
    "nightly_batch": [
        r"ann: ollama: .*\nbob: ollama: .*\n",
        r"for ann, in lane ollama\n.* for bob, in lane ollama\n",
    ],
    "failover": [
        r"m1/qwen3:30b in lane m1: cannot be reached.*\n",
        r"ollama/llama3\.1:8b in lane ollama: answered\n.* \(in lane ollama\)\n",
        r"\n *m1 +1 .*\n(.*\n)* *ollama +3 .* [1-9]\d* *\n",
    ],
    "sse": [
        r"^start: .*\ntext: .*\n-- lost, and back --\n(text: .*\n)*done: .*\n$",
    ],
    "errors": [
        r"ValueError: ollama/llama3\.1:8b cannot translate '\?'\n",
        r"caller alice, run run-17, lane ollama, model ollama/llama3\.1:8b\n",
    ],
}


@pytest.fixture(scope="module")
def env():
    with EmbeddedValkey() as valkey, LLMStub() as stub:
        yield env_of(valkey, stub)


def env_of(valkey, stub):
    return {
        "CELERY_BROKER_URL": valkey.url(0),
        "CELERY_RESULT_BACKEND": valkey.url(1),
        "CELERY_LANES_STORE_URL": valkey.url(2),
        "LLM_OLLAMA": stub.dsn,
        "LLM_M1": "openai+http://127.0.0.1:9/v1",  # nobody is there
        "PYTHONPATH": str(ROOT),
    }


@pytest.fixture
def fresh():
    """An environment of servers of one's own, with the stub and the store to look at."""
    with EmbeddedValkey() as valkey, LLMStub() as stub:
        store = open_store(valkey.url(2))
        yield env_of(valkey, stub), stub, store
        store.disconnect()


def test_every_example_is_run():
    assert set(SAID) == {file.stem for file in (ROOT / "examples").glob("*.py")}


@pytest.mark.parametrize("name", SAID)
def test_example(name, env):
    words = re.search(r"celery -A (\S+) worker -Q (\S+) -c (\d)\n", _docstring(name))
    module, queue, concurrency = words.groups()

    with (
        WorkerProcess(module, [queue], concurrency=int(concurrency), env=env, cwd=ROOT),
        served(name, env) as place,
    ):
        said = run(name, {**env, **place}) + status(name, env)

    assert module == f"examples.{name}"
    for pattern in SAID[name]:
        assert re.search(pattern, said), said


def test_people_who_ask_by_day_pass_the_nightly_batch_and_all_of_it_ends(fresh, tmp_path):
    env, stub, store = fresh
    stub.service = lambda asked: 8.0 if is_batch(asked["messages"][0]["content"]) else 0.1
    env |= {"NIGHTLY_EVERY_S": "2", "CELERY_LANES_CONFIG": str(with_preemption(tmp_path))}

    with WorkerProcess(
        "examples.nightly_batch", ["lanes.ollama"], concurrency=3, env=env, cwd=ROOT
    ):
        with beat("examples.nightly_batch", env, tmp_path):
            patiently(lambda: store.snapshot("ollama").waiting > 40)
        said = run("nightly_batch", env)  # all of the batch was published before
        stub.service = 0.0
        patiently(lambda: is_empty(store))

    batch = [record for record in stub.log if is_batch(record.prompt)]
    people = [record for record in stub.log if not is_batch(record.prompt)]
    assert "go before it" not in said  # of the batch, none
    assert len(people) == 2
    assert all(person.status == 200 for person in people)
    assert 1 <= sum(one.status is None for one in batch) <= 2  # they made room, and ran again
    assert sum(one.status == 200 for one in batch) > 40


def test_a_reader_of_server_sent_events_is_sent_exactly_the_rest_and_may_stop_it(fresh):
    env, stub, _ = fresh
    go_on = threading.Event()
    stub.script(Answer(events=words("one ", "two ", then=go_on)), Answer(events=words("on ")))

    with (
        WorkerProcess("examples.sse", ["lanes.ollama"], concurrency=2, env=env, cwd=ROOT),
        served("sse", env) as place,
        httpx.Client(base_url=place["SSE_URL"], timeout=60) as client,
    ):
        whole = place_of(client)
        first = take(client, whole, 2)
        go_on.set()
        rest = take(client, whole, cursor=first[-1][0])
        again = take(client, whole)
        endless = place_of(client)
        begun = take(client, endless, 2)
        client.delete(endless)
        stub.wait_until(lambda: stub.inside == 0)
        ended = take(client, endless, cursor=begun[-1][0])

    assert [kind for _, kind, _ in first] == ["start", "text"]
    assert first + rest == again
    assert "".join(json.loads(data).get("text", "") for *_, data in again) == "one two three"
    assert [kind for _, kind, _ in ended][-1] == "cancelled"


def words(*said, then=None):
    """Say some words, and "three" when the time has come."""
    for word in said:
        yield sse({"content": word})
    while not (then or threading.Event()).wait(0.02):
        yield b": nothing\n\n"
    yield sse({"content": "three"}) + sse({}, finish_reason="stop") + b"data: [DONE]\n\n"


def sse(delta, **more):
    return b"data: " + json.dumps({"choices": [{"delta": delta, **more}]}).encode() + b"\n\n"


def place_of(client):
    asked = client.post("/replies", params={"prompt": "count", "caller": "ann"})
    return f"/replies/{asked.json()['id']}"


def take(client, place, count=None, cursor=""):
    """Read events up to the end, or leave after so many, as ``main`` of the example does."""
    headers, taken = {"Last-Event-ID": cursor} if cursor else {}, []
    with client.stream("GET", place, headers=headers) as response:
        fields = {}
        for line in response.iter_lines():
            if line:
                name, _, value = line.partition(": ")
                fields[name] = value
            elif "id" in fields:
                taken.append((fields.pop("id"), fields.pop("event"), fields.pop("data")))
                if len(taken) == count:
                    break
    return taken


@contextmanager
def served(name, env):
    """Run the web server that an example says it needs; give what tells where it is."""
    found = re.search(r"uvicorn (\S+) --port", _docstring(name))
    if found is None:
        yield {}
        return
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", found[1], "--port", str(port)]
    process = subprocess.Popen(
        command, cwd=ROOT, env={**os.environ, **env},
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        until(lambda: answers(port))
        yield {"SSE_URL": f"http://127.0.0.1:{port}"}
    finally:
        process.terminate()
        process.wait(timeout=20)


def answers(port):
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


def run(name, env):
    """Run an example's ``main`` as its docstring says; give what it prints."""
    ran = subprocess.run(
        [sys.executable, f"examples/{name}.py"], cwd=ROOT, env={**os.environ, **env},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (ran.returncode, ran.stderr) == (0, "")
    return ran.stdout


def status(name, env):
    """Give the lanes' table, where the docstring asks for it."""
    if (found := re.search(r"celery -A (\S+) lanes status", _docstring(name))) is None:
        return ""
    ran = subprocess.run(
        [sys.executable, "-m", "celery", "-A", found[1], "lanes", "status"], cwd=ROOT,
        env={**os.environ, **env}, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    return ran.stdout


@contextmanager
def beat(module, env, folder):
    """Run beat, as the example says, with a schedule file of its own."""
    command = [sys.executable, "-m", "celery", "-A", module, "beat", "-s", str(folder / "schedule")]
    process = subprocess.Popen(
        command, cwd=ROOT, env={**os.environ, **env},
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        yield
    finally:
        process.terminate()
        process.wait(timeout=20)


def is_empty(store):
    now = store.snapshot("ollama")
    return not now.running + now.waiting + now.delayed + now.closing


def patiently(is_so):
    """Wait for a state of a store that may be away for a second, as a machine may stall."""

    def heard():
        with suppress(StoreUnavailable):
            return is_so()

    until(heard, timeout_s=60)


def is_batch(prompt):
    return "Summarise" in prompt


def with_preemption(folder):
    """Write the settings as the example tells to."""
    usual, lane = (ROOT / "config/lanes.toml").read_text(), "[lanes.ollama]\n"
    config = folder / "lanes.toml"
    config.write_text(usual.replace(lane, f"{lane}preemption = true\nmin_runtime = 0\n"))
    return config


def _docstring(name):
    return (ROOT / f"examples/{name}.py").read_text().split('"""')[1]
