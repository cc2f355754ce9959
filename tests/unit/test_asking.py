"""How a task asks a model."""

from __future__ import annotations

from types import SimpleNamespace

from celery.app.task import Context
from celery.exceptions import SoftTimeLimitExceeded

from celery_lanes.asking import asking
from celery_lanes.llm.chains.chain import Chain
from celery_lanes.llm.messages import Message
from celery_lanes.llm.providers.fake import FakeProvider
from celery_lanes.llm.request import Request
from celery_lanes.streams.pump import Patience


def test_a_direct_call_is_no_stream_for_it_has_no_id_to_be_read_by():
    task = SimpleNamespace(request=Context())

    with asking(task, Patience(first_token_s=1, idle_s=1)) as ask:
        assert ask is Chain.generate


class Late:
    """A press whose store is away when the call's time is up."""

    def open(self, pump):
        """Begin to print."""

    def nudge(self):
        """Hear that there is something to print."""

    def close(self, pump):
        raise SoftTimeLimitExceeded


def test_a_reply_is_not_lost_for_the_last_words_to_its_readers():
    parts = SimpleNamespace(printer=SimpleNamespace(press=Late))
    lanes = SimpleNamespace(parts=parts, established=lambda request: None)
    task = SimpleNamespace(request=Context(id="t1"), app=SimpleNamespace(lanes=lanes))
    request = Request(model="m/x", messages=(Message(role="user", content="hi"),))
    chain = SimpleNamespace(stream=lambda request, **_: FakeProvider().stream(request, timeout_s=1))

    with asking(task, Patience(first_token_s=1, idle_s=1)) as ask:
        reply = ask(chain, request)

    assert reply.text == "hi"
