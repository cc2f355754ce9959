"""A reader is always told an end, by whoever knows it."""

from __future__ import annotations

import asyncio

import pytest
from celery import Celery

from celery_lanes.errors import StoreUnavailable
from celery_lanes.llm.reply import Reply
from celery_lanes.store.memory.transcripts import MemoryTranscripts
from celery_lanes.streams import reader as readers
from celery_lanes.streams.ending import ending_of
from celery_lanes.streams.events import Cancelled, Failed, Finished, failed
from celery_lanes.streams.reader import Reader
from tests.unit.streams.reading import USAGE, WAYS, told


@WAYS
@pytest.mark.parametrize(
    "ending", [Failed(error_class="WorkerLostError"), Cancelled()], ids=lambda ending: ending.type
)
def test_an_end_that_nobody_wrote_is_told_by_the_result(call, read, ending):
    call.run(["a"])
    call.ending = (ending,)

    events = read(call.reader())

    assert told(events) == ["start", "a", ending.type]
    assert (events[-1].what, events[-1].id) == (ending, events[-2].id)


@WAYS
def test_a_reply_whose_last_words_are_missing_has_a_gap(call, read):
    call.run(["a"])
    call.ending = (Finished(usage=USAGE),)

    assert told(read(call.reader())) == ["start", "a", "gap", "done"]


@WAYS
def test_last_words_that_come_while_the_result_is_asked_for_come_first(call, read):
    def ended_just_now():
        if call.runs == 0:
            call.run(["a"], [Finished()])
        return (Finished(),)

    assert told(read(Reader("t1", call.transcripts, ended_just_now, print))) == [
        "start",
        "a",
        "done",
    ]


@WAYS
def test_a_call_that_was_published_without_stream_is_read_from_its_result(call, read):
    reply = Reply(text="all of it", usage=USAGE, model="m")
    with Celery(broker="memory://", backend="cache+memory://", set_as_current=False) as app:
        for task_id, result in (("t1", reply.model_dump(mode="json")), ("t2", "another task's")):
            app.backend.mark_as_done(task_id, result)
        call.ending, of_another = ending_of(app, "t1"), ending_of(app, "t2")
        assert ending_of(app, "t3") == ()

    whole = read(call.reader())

    assert told(whole) == ["all of it", "done"]
    assert whole[-1].what.usage == USAGE
    assert told(read(call.reader(after=whole[0].id))) == ["gap", "done"]
    assert told(read(Reader("t2", call.transcripts, lambda: of_another, print))) == ["gap", "done"]


def test_who_comes_back_after_the_end_is_told_it_again(call):
    call.run(["a", Finished(usage=USAGE)])
    *_, last = call.reader()
    call.ending = (Finished(),)

    assert list(call.reader(after=last.id)) == [last]


def test_who_comes_back_after_the_end_is_told_it_again_and_needs_no_result(call):
    call.run(["all"], [Finished(usage=USAGE)])
    *_, last = call.reader()

    assert list(call.reader(after=last.id)) == [last]


def test_a_call_that_never_was_ends_by_time(call):
    reader = call.reader(timeout_s=0.1)

    with pytest.raises(TimeoutError, match=r"nothing came of t1 within 0\.1 s"):
        next(reader)
    with pytest.raises(TimeoutError):
        asyncio.run(anext(reader))
    call.run([Finished()])

    assert told(reader) == ["start", "done"]


class Away(MemoryTranscripts):
    def follow(self, task_id):
        follower = super().follow(task_id)
        follower.ask = self.fail
        return follower

    def fail(self, *_):
        raise StoreUnavailable


@WAYS
def test_a_store_that_stays_away_ends_it_by_the_result_or_as_an_error(call, read, monkeypatch):
    monkeypatch.setattr(readers, "AWAY_S", 0.1)
    call.transcripts = Away()

    with pytest.raises(StoreUnavailable):
        read(call.reader())
    call.ending = (Failed(error_class="ValueError"),)

    assert told(read(call.reader())) == ["error"]


def test_an_error_whose_message_cannot_be_read_is_told_all_the_same():
    class OddError(Exception):
        def __str__(self):
            raise RuntimeError

    assert failed(OddError()).error_class == "OddError"
