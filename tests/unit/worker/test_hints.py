"""What a worker says at its start of the queues that it was given."""

from __future__ import annotations

import logging
import re

import pytest

from celery_lanes import Settings
from celery_lanes.worker.hints import hint_at_queues

ONE = {"lanes": {"ollama": {}}}
MANY = {"lanes": {name: {} for name in "abcd"}, "rules": [{"match": "gpu/*", "lane": "imagine"}]}


@pytest.mark.parametrize(
    ("settings", "queues", "said"),
    [
        (ONE, ["celery"], ["this worker serves no lane; .*: -Q celery,lanes.ollama$"]),
        (MANY, ["celery"], ["serves no lane; .*: -Q celery,lanes.a,lanes.b,lanes.c,...$"]),
        (
            ONE,
            ["ollama"],
            ["ollama is a plain queue; that of lane ollama is lanes.ollama: -Q lanes"],
        ),
        (MANY, ["lanes.a", "imagine"], ["imagine is a plain queue"]),
        (ONE, ["lanes.ollama"], []),
        (ONE, ["lanes.new"], []),
        (ONE, ["mails"], []),  # chosen, so it is only an INFO
        ({}, ["celery"], []),
    ],
)
def test_a_worker_says_which_queues_were_probably_meant(settings, queues, said, caplog):
    caplog.set_level(logging.WARNING)

    hint_at_queues(Settings.parse(settings), queues, "celery")

    assert len(caplog.records) == len(said)
    for wanted in said:
        assert re.search(wanted, caplog.text.strip())
