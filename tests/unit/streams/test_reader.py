"""What a reader is told: all of it once, in order, and always an end."""

from __future__ import annotations

import asyncio
import json
import select
import threading
import time
from contextlib import suppress
from itertools import islice

import pytest
from celery import Celery

from celery_lanes.errors import StoreUnavailable
from celery_lanes.llm.reply import Reply, TextDelta, Usage
from celery_lanes.store.memory.transcripts import MemoryTranscripts
from celery_lanes.store.transcripts import Draft, Entry, Mark
from celery_lanes.streams import reader as readers
from celery_lanes.streams.ending import ending_of
from celery_lanes.streams.events import Began, Cancelled, Failed, Finished, failed, to_json
from celery_lanes.streams.reader import Reader

USAGE = Usage(input_tokens=1, output_tokens=2)


@pytest.fixture(autouse=True)
def _impatient(monkeypatch):
    monkeypatch.setattr(readers, "SILENCE_S", 0.02)
    monkeypatch.setattr(readers, "GRACE_S", 0.02)
    monkeypatch.setattr(readers, "AGAIN_S", 0.01)


class Call:
    """A call that says things, and may have a result."""

    def __init__(self):
        self.transcripts = MemoryTranscripts()
        self.ending = ()
        self.stops = []
        self.runs = 0

    def run(self, *batches):
        self.runs += 1
        run, index = self.runs * 10, 0
        for batch in ((Began(attempt=self.runs),), *batches):
            events = [TextDelta(text=one) if isinstance(one, str) else one for one in batch]
            index += len(events)
            entry = Entry(Mark(run, index), self.runs, json.dumps([to_json(e) for e in events]))
            self.transcripts.write([Draft("t1", Mark(run), entry)])

    def keep_from(self, run, index):
        log = self.transcripts._logs["t1"]
        log.entries = [entry for entry in log.entries if entry.last >= Mark(run, index)]

    def reader(self, after=None, timeout_s=5):
        return Reader(
            "t1", self.transcripts, lambda: self.ending, self.stops.append,
            after=after, timeout_s=timeout_s,
        )  # fmt: skip


@pytest.fixture
def call():
    return Call()


def in_loop(reader):
    async def read():
        return [event async for event in reader]

    return asyncio.run(read())


WAYS = pytest.mark.parametrize("read", [list, in_loop], ids=["for", "async_for"])


def told(events):
    return [event.text or event.type for event in events]


@WAYS
def test_all_is_read_in_order(call, read):
    call.run(["a", "b"], ["c", Finished(usage=USAGE)])

    events = read(call.reader())

    assert told(events) == ["start", "a", "b", "c", "done"]
    assert [event.id for event in events] == [f"10-{index}" for index in range(1, 6)]
    assert events[-1].what.usage == USAGE


@WAYS
def test_from_any_event_on_exactly_the_rest_is_read(call, read):
    call.run(["a", "b", "c"], ["d"], ["e", Finished()])
    events = read(call.reader())

    rests = [read(call.reader(after=event.id)) for event in events[:-1]]

    assert rests == [events[at + 1 :] for at in range(len(events) - 1)]


@WAYS
def test_what_is_written_while_it_is_read_comes_too(call, read):
    writer = threading.Timer(0.05, call.run, [["a"], ["b", Finished()]])
    writer.start()

    assert told(read(call.reader())) == ["start", "a", "b", "done"]
    writer.join()


@WAYS
def test_a_call_that_begins_again_voids_what_came(call, read):
    call.run(["a", "b"])
    reader = call.reader()
    begun = [next(reader) for _ in range(3)]
    call.run(["A", Finished()])

    rest = read(call.reader(after=begun[-1].id))

    assert told(begun + rest) == ["start", "a", "b", "restart", "A", "done"]
    reader.close()


@WAYS
def test_a_run_after_one_that_the_store_has_forgotten_voids_what_came_all_the_same(call, read):
    call.run(["a"])
    *_, last = islice(call.reader(), 2)
    call.transcripts._logs.clear()
    call.run(["A", Finished()])

    events = read(call.reader(after=last.id))

    assert [event.type for event in events] == ["restart", "text", "done"]


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


def test_what_was_trimmed_is_a_gap_and_not_passed_over_in_silence(call):
    call.run(["a"], ["b"], ["c"], ["d", Finished()])
    call.keep_from(10, 4)

    assert told(call.reader()) == ["gap", "c", "d", "done"]
    assert told(call.reader(after="10-2")) == ["gap", "c", "d", "done"]
    assert told(call.reader(after="10-3")) == ["c", "d", "done"]
    gap = next(iter(call.reader(after="10-2")))
    assert told(call.reader(after=gap.id)) == ["c", "d", "done"]


def test_a_hole_in_what_is_there_is_a_gap(call):
    call.run(["a"], ["b"], ["c", Finished()])
    del call.transcripts._logs["t1"].entries[2]

    assert told(call.reader()) == ["start", "a", "gap", "c", "done"]


def test_a_call_that_never_was_ends_by_time(call):
    reader = call.reader(timeout_s=0.1)

    with pytest.raises(TimeoutError, match=r"nothing came of t1 within 0\.1 s"):
        next(reader)
    with pytest.raises(TimeoutError):
        asyncio.run(anext(reader))
    call.run([Finished()])

    assert told(reader) == ["start", "done"]


def test_who_gives_up_waiting_loses_nothing(call):
    async def read():
        reader, seen = call.reader(), []
        writer = threading.Timer(0.03, call.run, [["a"], ["b", Finished()]])
        writer.start()
        while not (seen and seen[-1].is_last):
            with suppress(asyncio.TimeoutError):
                seen.append(await asyncio.wait_for(anext(reader), 0.001))
        writer.join()
        return seen

    assert told(asyncio.run(read())) == ["start", "a", "b", "done"]


def test_steps_are_taken_one_at_a_time_and_the_last_one_closes(call):
    async def read():
        reader = call.reader()
        step, begun, may_end = reader._step, [], threading.Event()

        def slow_step():
            begun.append(1)
            may_end.wait(30)  # it outlasts those who wait for it
            step()

        reader._step = slow_step
        for _ in range(10):
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(anext(reader), 0.01)
        await reader.__aexit__(None, None, None)
        assert reader._step_taken is not None
        may_end.set()
        await reader._step_taken
        return begun, reader._follower.fileno()

    steps, descriptor = asyncio.run(read())

    assert steps == [1]
    assert descriptor == -1


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


def test_it_is_closed_by_its_block_and_may_stop_the_call(call):
    with call.reader() as reader:
        reader.cancel()
        reader.cancel(drain=True)
        descriptor = reader._follower.fileno()

    assert call.stops == ["abort", "drain"]
    assert descriptor >= 0 > reader._follower.fileno()
    assert list(reader) == []


def test_a_place_that_is_none_is_refused(call):
    with pytest.raises(ValueError, match="expected the id of an event"):
        call.reader(after="yesterday")


def test_two_hundred_readers_of_one_loop_hold_up_nobody(call):
    async def read_all():
        return await asyncio.gather(*(read_one() for _ in range(200)))

    async def read_one():
        return [event async for event in call.reader()]

    writer = threading.Timer(0.3, call.run, [["a"], ["b", Finished()]])
    writer.start()
    began = time.monotonic()
    seen = asyncio.run(read_all())
    writer.join()

    assert {tuple(told(events)) for events in seen} == {("start", "a", "b", "done")}
    assert time.monotonic() - began < 60


def test_who_comes_back_after_the_end_is_told_it_again_and_needs_no_result(call):
    call.run(["all"], [Finished(usage=USAGE)])
    *_, last = call.reader()

    assert list(call.reader(after=last.id)) == [last]


def test_a_reader_that_is_closed_while_another_task_waits_for_it_ends(call):
    async def main():
        reader = call.reader()
        waiting = asyncio.ensure_future(anext(reader, None))
        while reader._waiting is None:  # noqa: ASYNC110 # nobody says so
            await asyncio.sleep(0)
        reader.close()
        return await waiting, reader._follower.fileno()

    assert asyncio.run(main()) == (None, -1)


def test_a_cancellation_that_comes_with_a_piece_is_heard(call):
    async def main():
        reader = call.reader()
        waiting = asyncio.ensure_future(anext(reader, None))
        while reader._waiting is None:  # noqa: ASYNC110 # nobody says so
            await asyncio.sleep(0)
        loop = asyncio.get_running_loop()
        call.run(["a"])
        is_readable = select.select([reader._follower], [], [], 5)[0]
        loop.call_later(0, waiting.cancel)  # in the turn of the loop in which it is readable
        return is_readable, await asyncio.wait([waiting]), waiting.cancelled()

    assert asyncio.run(main())[-1]


def test_an_error_whose_message_cannot_be_read_is_told_all_the_same():
    class OddError(Exception):
        def __str__(self):
            raise RuntimeError

    assert failed(OddError()).error_class == "OddError"
