"""What the commands say to paste."""

from __future__ import annotations

import pytest

from celery_lanes.cli.command import celery_command


@pytest.mark.parametrize(
    ("words", "env", "command"),
    [
        (["celery", "-A", "shop.app", "lanes", "check"], {}, "celery -A shop.app"),
        (["celery", "-Ashop", "lanes"], {}, "celery -A shop"),
        (["celery", "--app", "shop", "lanes"], {}, "celery -A shop"),
        (["celery", "--app=shop", "lanes"], {"CELERY_APP": "other"}, "celery -A shop"),
        (["celery", "lanes"], {"CELERY_APP": "shop"}, "celery"),
        (["pytest", "-A"], {}, "celery -A ..."),
    ],
)
def test_a_hint_names_the_app_as_the_command_line_did(words, env, command):
    assert celery_command(words, env) == command
