"""What is asked on a loop ends when its time is up, or when somebody ends it, and is cancelled."""

from __future__ import annotations

import asyncio
import threading
from contextlib import closing

import pytest

from celery_lanes.errors import Preempted, TransientError
from celery_lanes.llm.deadline import Deadline
from celery_lanes.llm.http.hangup import CallCancelled, Hangup, interruptible
from celery_lanes.llm.providers.loop import Loop


class Silent:
    """Says something, and then nothing, until it is cancelled."""

    def __init__(self, *words):
        self._words, self.is_cancelled, self.is_silent = words, threading.Event(), threading.Event()

    async def say(self):
        try:
            for word in self._words:
                yield word
            self.is_silent.set()
            await asyncio.Event().wait()
        finally:
            self.is_cancelled.set()


@pytest.fixture
def loop():
    with closing(Loop("test")) as loop:
        yield loop


def ended(loop, silent, hangup, *, timeout_s=1000.0):
    """Ask until it ends; give what came."""
    heard = []
    with interruptible(hangup):
        items, end = loop.ask(silent.say(), Deadline(timeout_s), "it")
        try:
            assert silent.is_silent.wait(30)
            heard.extend(items)
        finally:
            end()
            assert silent.is_cancelled.wait(30)
    return heard


def in_silence(silent, act):
    return threading.Thread(target=lambda: silent.is_silent.wait(30) and act())


@pytest.mark.parametrize("reason", [CallCancelled, Preempted])
def test_a_call_that_is_cut_ends_with_the_reason(loop, reason):
    silent, hangup = Silent("a", "b"), Hangup()
    cutting = in_silence(silent, lambda: hangup.cut(reason()))
    cutting.start()

    with pytest.raises(reason):
        ended(loop, silent, hangup)

    cutting.join()


def test_one_that_was_cut_before_asks_nobody(loop):
    silent, hangup = Silent("a"), Hangup()
    hangup.cut(CallCancelled())

    with pytest.raises(CallCancelled):
        ended(loop, silent, hangup)

    assert not silent.is_silent.is_set()


def test_an_attempt_that_is_given_up_is_followed_by_another(loop):
    silent, hangup = Silent(), Hangup()
    giving_up = in_silence(silent, lambda: hangup.lapse("was silent for 2 s"))
    giving_up.start()

    with pytest.raises(TransientError, match="it was silent for 2 s"):
        ended(loop, silent, hangup)

    giving_up.join()
    with pytest.raises(TransientError, match=r"it gave no answer within 0\.1 s"):
        ended(loop, Silent(), hangup, timeout_s=0.1)


def test_a_cut_between_two_items_is_noticed_at_the_next(loop):
    silent, hangup, heard = Silent("a", "b"), Hangup(), []
    with interruptible(hangup):
        items, end = loop.ask(silent.say(), Deadline(1000), "it")
        heard.append(next(items))
        hangup.cut(CallCancelled())

        with pytest.raises(CallCancelled):
            next(items)
        end()

    assert heard == ["a"]
    assert silent.is_cancelled.wait(30)
