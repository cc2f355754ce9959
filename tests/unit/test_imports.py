"""What it costs to have the package installed, and to publish with it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import celery_lanes

ROOT = Path(__file__).parents[2]

THE_CELERY_COMMAND = """
from celery.bin.celery import celery
assert "lanes" in celery.commands
"""

A_PRODUCER = """
from celery import Celery
from celery_lanes import Lanes, Settings
app = Celery("shop", broker="memory://")
Lanes(app, Settings.parse({"store": {"url": "memory://"}, "lanes": {"openai": {}}}))
app.tasks["celery_lanes.generate"].delay("openai/gpt-5-mini", "How are you?")
assert app.lanes.lane("openai").stats().waiting == 1
"""


@pytest.mark.parametrize("name", celery_lanes.__all__)
def test_each_public_name_is_found_at_its_home(name):
    assert getattr(celery_lanes, name).__name__ == name
    assert name in dir(celery_lanes)


def test_a_name_that_is_none_is_an_attribute_error():
    with pytest.raises(AttributeError, match="'celery_lanes' has no attribute 'lane_of'"):
        celery_lanes.lane_of  # noqa: B018


def test_a_celery_command_imports_next_to_nothing_of_ours():
    loaded = modules_after(THE_CELERY_COMMAND)

    assert not loaded & {"httpx", "pydantic", "rich"}
    assert {name for name in loaded if name.startswith("celery_lanes")} == {
        "celery_lanes",
        "celery_lanes.cli",
        "celery_lanes.cli.chaos",
        "celery_lanes.cli.exits",
        "celery_lanes.cli.group",
        "celery_lanes.cli.lazy",
        "celery_lanes.cli.main",
        "celery_lanes.errors",
    }


def test_a_producer_imports_no_http_client_no_provider_and_no_command():
    loaded = modules_after(A_PRODUCER)

    assert not loaded & {"httpcore", "httpx", "litellm", "pydantic_ai", "rich"}
    assert not {name for name in loaded if name.startswith(("celery_lanes.cli", CLIENT))}
    assert {name for name in loaded if name.startswith(PROVIDERS)} <= {f"{PROVIDERS}fake"}


CLIENT = "celery_lanes.llm.http.client"
PROVIDERS = "celery_lanes.llm.providers."


def modules_after(script):
    """Run a script in a process of its own, and give the modules that it has loaded then."""
    words = f"{script}\nimport json, sys\nprint(json.dumps(list(sys.modules)))"
    ran = subprocess.run(
        [sys.executable, "-c", words], cwd=ROOT, capture_output=True, text=True, check=False,
        timeout=60,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    return set(json.loads(ran.stdout))
