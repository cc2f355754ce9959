"""A body is interrupted while it runs, and nothing else is: real signals, in this process."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from types import SimpleNamespace
from weakref import ref

import pytest
from celery.exceptions import Ignore, Reject, Retry

from celery_lanes.errors import Preempted
from celery_lanes.journeys.journey import Moved, moved
from celery_lanes.worker import body
from celery_lanes.worker.body import ASKED_BY, Yielded, running

LEASE = ("nonce", "token")


class SomeTask:
    """What of a task is watched; it may be interrupted while it publishes."""

    def __init__(self, run, lanes):
        self.run = run
        self.request = SimpleNamespace(lanes=lanes)
        self.published = []
        self.during = lambda: None
        self.goes_on = False

    def retry(self, args=None, kwargs=None, exc=None, throw=True):
        return self._publish("retry", Retry())

    def replace(self, signature=None):
        return self._publish("replace", Ignore())

    def _publish(self, what, word):
        self.published.append(what)
        self.during()
        if not self.goes_on:
            raise word from None


@pytest.fixture
def make():
    """Make a task whose body is run in a lane."""
    before = signal.getsignal(ASKED_BY)
    body.listen()

    def make(run, *, grace_s=60.0, header=True):
        lanes = {"nonce": LEASE[0], "token": LEASE[1], "lane": "ollama"} if header else {}
        task = SomeTask(run, lanes)
        body.watch(task, lambda _lane: grace_s)
        return task

    yield make
    signal.signal(ASKED_BY, before)


def fail():
    raise OSError("the broker is away")


def tell():
    os.kill(os.getpid(), ASKED_BY)


def test_it_is_raised_in_the_body_which_celery_then_ignores(make):
    with pytest.raises(Yielded) as raised:
        make(tell).run()

    assert isinstance(raised.value, Ignore)
    assert isinstance(raised.value.__cause__, Preempted)
    assert running(LEASE) is None


def test_a_body_that_moves_instead_has_moved(make):
    def move():
        try:
            tell()
        except Preempted as error:
            raise moved("gpu", None) from error

    with pytest.raises(Moved):
        make(move).run()


def test_a_body_that_is_told_while_it_moves_makes_room(make):
    def move():
        try:
            raise moved("gpu", None)
        finally:
            tell()

    with pytest.raises(Yielded):
        make(move).run()


def test_a_body_that_catches_it_ends_as_it_likes(make):
    def save():
        try:
            tell()
        except Preempted:
            return "saved"

    assert make(save).run() == "saved"


def test_within_the_grace_it_is_told_once(make):
    def go_on():
        with pytest.raises(Preempted):
            tell()
        tell()
        return "went on"

    assert make(go_on).run() == "went on"


def test_after_the_grace_no_handler_for_errors_holds_it(make):
    def go_on():
        while True:
            try:
                tell()
            except Exception:  # noqa: BLE001, PERF203 # as some retry loops do
                continue

    with pytest.raises(Yielded):
        make(go_on, grace_s=0).run()


def test_nobody_is_interrupted_between_bodies_nor_around_one(make):
    tell()
    around = SimpleNamespace(f_globals=vars(body))

    def run():
        body._hear(ASKED_BY, around)  # as if it interrupted the lines before or after this one
        return "ran"

    assert make(run).run() == "ran"


def test_what_runs_in_no_lane_is_left_alone(make):
    def run():
        tell()
        return "ran"

    assert make(run, header=False).run() == "ran"


def test_a_task_that_is_watched_twice_is_watched_once(make):
    task = make(tell)
    run = task.run

    body.watch(task, lambda _lane: 60.0)

    assert task.run is run


def test_a_body_that_calls_itself_is_one_body(make):
    def count(number):
        assert running(LEASE)
        return task.run(number - 1) + 1 if number else 0

    task = make(count)

    assert task.run(3) == 3
    assert running(LEASE) is None


def test_what_it_was_not_asked_for_is_an_error_as_any(make):
    """As where a child's result is fetched, and the child's lane has on_preempt = "fail"."""

    def fetch():
        raise Preempted("a child's")

    with pytest.raises(Preempted, match="a child's"):
        make(fetch).run()


def wrap():
    try:
        tell()
    except Exception as error:
        raise ValueError("APIConnectionError") from error


def clean_up():
    try:
        tell()
    finally:
        raise ValueError("cannot roll back")


@pytest.mark.parametrize("run", [wrap, clean_up])
def test_an_error_that_comes_of_it_is_no_failure_of_the_body(make, run):
    with pytest.raises(Yielded):
        make(run).run()


class Connection:
    """What a body may hold; it is closed when nobody refers to it."""


@pytest.mark.parametrize("ends", [tell, wrap])
def test_what_a_body_held_is_let_go_with_it(make, ends):
    """The provider serves a connection for as long as it is open, while another has the slot."""
    held = []

    def ask():
        connection = Connection()
        held.append(ref(connection))
        ends()

    with pytest.raises(Yielded) as raised:
        make(ask).run()

    assert held[0]() is None
    assert raised.value.__cause__.__traceback__  # it is still told where the body was


def test_a_body_that_gives_up_for_its_own_reason_keeps_its_end(make):
    def give_up():
        try:
            tell()
        except Preempted:
            raise ValueError("enough") from None

    with pytest.raises(ValueError, match="enough"):
        make(give_up).run()


@pytest.mark.parametrize("word", [Ignore, Reject])
def test_what_a_body_says_to_celery_stands(make, word):
    def say():
        try:
            tell()
        except Preempted:
            raise word from None

    with pytest.raises(word) as raised:
        make(say).run()
    assert not isinstance(raised.value, Yielded)


@pytest.mark.parametrize("names_it", [True, False], ids=["exc=", "bare"])
def test_a_retry_for_it_is_none(make, names_it):
    def retry():
        try:
            tell()
        except Exception as error:  # noqa: BLE001 # as bodies do
            task.retry(exc=error) if names_it else task.retry()

    task = make(retry)

    with pytest.raises(Yielded):
        task.run()
    assert task.published == []


@pytest.mark.parametrize("act", ["retry", "replace"])
def test_a_body_is_left_alone_once_it_has_another_take_its_place(make, act):
    """Published and put back, it would run twice at once."""

    def give_way():
        getattr(task, act)()

    task = make(give_way)
    task.during = tell

    with pytest.raises((Retry, Ignore)):
        task.run()
    assert task.published == [act]


@pytest.mark.parametrize("act", ["retry", "replace"])
def test_a_body_that_goes_on_after_it_may_be_asked_again(make, act):
    def go_on():
        getattr(task, act)()
        tell()

    task = make(go_on)
    task.goes_on = True

    with pytest.raises(Yielded):
        task.run()


def test_a_body_whose_retry_cannot_be_published_may_be_asked_again(make):
    def go_on():
        with suppress(OSError):
            task.retry()
        tell()

    task = make(go_on)
    task.during = fail

    with pytest.raises(Yielded):
        task.run()
