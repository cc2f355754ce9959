"""The examples run as their docstrings say."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from celery_lanes.testing.embedded import EmbeddedValkey
from celery_lanes.testing.llm_stub import LLMStub
from celery_lanes.testing.workers import WorkerProcess

ROOT = Path(__file__).parents[2]
SAID = {
    "shop": [
        r"by ollama, waited \d+\.\d\d s\n.*by ollama, waited",
        r"bob had 7 words summarised by ollama/llama3\.1:8b in lane ollama\n",
    ],
    "nightly_batch": [r"for the nightly batch, in lane ollama\n"],
    "errors": [
        r"ValueError: ollama/llama3\.1:8b cannot translate '\?'\n",
        r"caller alice, run run-17, lane ollama, model ollama/llama3\.1:8b\n",
    ],
}


@pytest.fixture(scope="module")
def env():
    with EmbeddedValkey() as valkey, LLMStub() as stub:
        yield {
            "CELERY_BROKER_URL": valkey.url(0),
            "CELERY_RESULT_BACKEND": valkey.url(1),
            "CELERY_LANES_STORE_URL": valkey.url(2),
            "LLM_OLLAMA": stub.dsn,
            "PYTHONPATH": str(ROOT),
        }


def test_every_example_is_run():
    assert set(SAID) == {file.stem for file in (ROOT / "examples").glob("*.py")}


@pytest.mark.parametrize("name", SAID)
def test_example(name, env):
    words = re.search(r"celery -A (\S+) worker -Q (\S+) -c (\d)\n", _docstring(name))
    module, queue, concurrency = words.groups()

    with WorkerProcess(module, [queue], concurrency=int(concurrency), env=env, cwd=ROOT):
        ran = subprocess.run(
            [sys.executable, f"examples/{name}.py"], cwd=ROOT, env={**os.environ, **env},
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip

    assert (ran.returncode, ran.stderr) == (0, "")
    assert module == f"examples.{name}"
    for pattern in SAID[name]:
        assert re.search(pattern, ran.stdout), ran.stdout


def _docstring(name):
    return (ROOT / f"examples/{name}.py").read_text().split('"""')[1]
