"""What a reader is told: all of it once, in order."""

from __future__ import annotations

import asyncio
import select
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import islice

import pytest

from celery_lanes.streams.events import Finished
from tests.unit.streams.reading import USAGE, WAYS, told
from tests.waiting import until


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


def test_a_store_that_hangs_holds_up_no_time_out_and_nothing_else_of_the_loop(call):
    goes_on = threading.Event()

    async def read():
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
        reader = call.reader(timeout_s=0.1)
        reader._follower.ask = lambda *_: goes_on.wait(60)
        with pytest.raises(TimeoutError):
            await anext(reader)
        assert reader._step_taken is not None  # it hangs still
        try:
            return await asyncio.wait_for(asyncio.to_thread(int), 10)
        finally:
            goes_on.set()

    assert asyncio.run(read()) == 0


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


def test_a_reader_that_is_closed_while_another_task_waits_for_it_ends(call):
    async def main():
        reader = call.reader()
        waiting = asyncio.ensure_future(anext(reader, None))
        while reader._waiting is None:  # noqa: ASYNC110 # nobody says so
            await asyncio.sleep(0)
        reader.close()
        return await waiting, reader._follower.fileno()

    assert asyncio.run(main()) == (None, -1)


def test_a_reader_that_another_thread_closes_ends(call):
    reader = call.reader()
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(list, reader)
        until(lambda: reader._is_asked)
        reader.close()

        assert reading.result(timeout=10) == []


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
