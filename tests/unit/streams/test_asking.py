"""How a task asks a model."""

from __future__ import annotations

from types import SimpleNamespace

from celery.app.task import Context

from celery_lanes.llm.chains.chain import Chain
from celery_lanes.streams.asking import asking
from celery_lanes.streams.pump import Patience


def test_a_direct_call_is_no_stream_for_it_has_no_id_to_be_read_by():
    task = SimpleNamespace(request=Context())

    with asking(task, Patience(first_token_s=1, idle_s=1)) as ask:
        assert ask is Chain.generate
