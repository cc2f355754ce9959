"""``docs/testing.md``: its files, word for word, as a user's own tests; and what it refuses."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from celery import Celery

from celery_lanes import Lanes, Settings
from celery_lanes.errors import ConfigError
from celery_lanes.store.calls import Call
from celery_lanes.store.memory.store import MemoryStore
from celery_lanes.store.rules import Policy
from celery_lanes.testing.memory import _emptied, serving

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


def test_a_test_that_fails_leaves_no_calls_to_the_next():
    store = MemoryStore()
    store.admit("ollama", [Call(id="c", task_id="t", task="x")], policy=Policy.FAIR)

    with pytest.raises(AssertionError), _emptied(store):
        raise AssertionError

    assert store.lanes() == []
