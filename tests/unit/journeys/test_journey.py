"""What ends a body whose call goes on, and what it may leave for its next run."""

from __future__ import annotations

import pickle
from contextlib import contextmanager
from dataclasses import replace

import pytest

from celery_lanes.callinfo import HEADER
from celery_lanes.cancellation import Cancellation
from celery_lanes.config.settings import Settings
from celery_lanes.envelope import Envelope
from celery_lanes.journeys.journey import (
    GRANTED,
    MAX_STAGE_BYTES,
    destination,
    granted_at,
    kept_in,
    moved,
    returned,
    stage_in,
)
from celery_lanes.position import find_position
from celery_lanes.store.attempts import Closing, Grant, Outcome, Reason
from celery_lanes.store.calls import Call
from celery_lanes.store.memory.store import MemoryStore
from celery_lanes.store.rules import Policy

LANES = Settings.parse({"lanes": {"a": {}, "b": {}}})


def grant_of(header: object, granted_ms: int = 0) -> Grant:
    envelope = Envelope(
        body=b"\x00[]",
        content_type="a/b",
        content_encoding="binary",
        headers={"id": "t"} if header is None else {"id": "t", HEADER: header},
        properties={"priority": 3},
    )
    return Grant("c", "token", "ann", 1, 0, envelope.pack(), granted_ms)


def closing_of(envelope: bytes, cost: float = 2.0) -> Closing:
    call = Call(id="c", task_id="t", task="x", cost=cost, has_waited=True, envelope=envelope)
    return Closing("c", "token", Reason.MOVED, envelope, call)


@pytest.mark.parametrize("error", [moved("b", {"at": [1]}), returned({"at": [1]}, 2.5)])
def test_it_comes_out_of_another_process_as_it_was_raised(error):
    copy = pickle.loads(pickle.dumps(error))

    assert (type(copy), copy.changes) == (type(error), error.changes)
    assert getattr(copy, "wait_ms", None) == getattr(error, "wait_ms", None)


@pytest.mark.parametrize("header", [None, "nonsense", {"nonce": "n", "stage": {"at": 1}}])
def test_a_move_leaves_the_message_as_it_was_but_for_our_header(header):
    release = moved("b", None).release(grant_of(header))

    before, after = Envelope.unpack(grant_of(header).envelope), Envelope.unpack(release.envelope)
    ours = after.headers.pop(HEADER)
    before.headers.pop(HEADER, None)
    assert before == after
    assert (ours["lane"], len(ours["nonce"])) == ("b", 32)
    assert ours["origin"] == ("n" if isinstance(header, dict) else "c")
    assert stage_in(ours) is None
    assert destination(closing_of(release.envelope))[0] == "b"


def test_a_call_that_is_given_back_keeps_its_message_unless_it_has_come_further():
    plain = returned(None, 0.25).release(grant_of({"nonce": "n"}))
    staged = returned({}, None).release(grant_of({"nonce": "n", "stage": {"at": 1}}))

    assert (plain.outcome, plain.wait_ms, plain.envelope) == (Outcome.BACK, 250, b"")
    assert (staged.outcome, staged.wait_ms) == (Outcome.BACK, 0)
    assert Envelope.unpack(staged.envelope).headers[HEADER] == {"nonce": "n", "stage": {}}


def test_an_attempt_comes_after_those_before_it_also_where_the_clock_is_behind():
    first = grant_of({"nonce": "n"}, granted_ms=5000)

    moved_on = Envelope.unpack(moved("b", None).release(first).envelope).headers[HEADER]
    there = replace(first, granted_ms=4000)
    retried = kept_in({**moved_on, "stage": {"at": 1}, GRANTED: granted_at(there, moved_on)})

    assert granted_at(first, {"nonce": "n"}) == 5000
    assert granted_at(there, moved_on) == 5001
    assert (granted_at(there, retried), retried["stage"]) == (5002, {"at": 1})
    assert granted_at(replace(first, granted_ms=9000), retried) == 9000
    assert kept_in("nonsense") == kept_in({}) == {}


@pytest.mark.parametrize(
    ("told", "cost"),
    [
        pytest.param({}, 2.0, id="as-here"),
        pytest.param({"cost": 700.0}, 700.0, id="in-the-other-unit"),
        pytest.param({"cost": 0.0}, 1.0, id="too-small"),
        pytest.param({"cost": float("nan")}, 1.0, id="none"),
    ],
)
def test_a_call_costs_there_what_it_costs_here_unless_it_is_told(told, cost):
    release = moved("b", None, **told).release(grant_of({"nonce": "n"}))

    assert destination(closing_of(release.envelope))[1].cost == cost


@pytest.mark.parametrize(
    "stage",
    [
        pytest.param({"at": object()}, id="object"),
        pytest.param({"at": float("nan")}, id="nan"),
        pytest.param({"at": b"x"}, id="bytes"),
        pytest.param(["at"], id="list"),
        pytest.param("at", id="text"),
        pytest.param({"at": "x" * MAX_STAGE_BYTES}, id="too-long"),
    ],
)
def test_an_odd_stage_is_refused_where_it_is_said(stage):
    for make in (lambda: moved("b", stage), lambda: returned(stage, None)):
        with pytest.raises(ValueError, match="expected stage to be"):
            make()


@pytest.mark.parametrize(
    "stage",
    [
        pytest.param({"at": {"__type__": "datetime", "__value__": "2026-01-01"}}, id="a-date"),
        pytest.param({"__type__": "page", "__value__": 7}, id="nothing-that-kombu-knows"),
    ],
)
def test_a_stage_that_kombus_json_would_read_in_its_own_way_comes_as_it_was_left(stage):
    for error in (moved("b", stage), returned(stage, None)):
        release = error.release(grant_of({"nonce": "n"}))
        header = Envelope.unpack(release.envelope).headers[HEADER]
        again = grant_of({"nonce": "r", **kept_in(header)})

        assert stage_in(header) == stage
        assert stage_in(Envelope.unpack(again.envelope).headers[HEADER]) == stage
    assert stage_in({"stage": "no JSON"}) is None


@pytest.mark.parametrize("delay", [-1, float("nan"), float("inf"), "1", True])
def test_an_odd_delay_is_refused(delay):
    with pytest.raises(ValueError, match="expected delay to be a number of seconds"):
        returned(None, delay)


class Moving(MemoryStore):
    """A store in which a call moves from lane "b" to "a" when somebody has looked into "a"."""

    looks = 0

    def position(self, lane, task_id):
        with self._after(lane):
            return super().position(lane, task_id)

    def cancel(self, lane, task_id):
        with self._after(lane):
            return super().cancel(lane, task_id)

    @contextmanager
    def _after(self, lane):
        try:
            yield
        finally:
            self.looks += 1
            if self.looks == 1:
                self.clear()
                self.admit("a", [Call(id="c2", task_id="t", task="x")], policy=Policy.FAIR)


@pytest.mark.parametrize(
    "look",
    [
        lambda store: find_position(store, "t", ["a", "b"]).lane,
        lambda store: next(iter(Cancellation(LANES, store).cancel("t"))),
    ],
    ids=["position", "cancel"],
)
def test_a_call_that_moves_while_it_is_looked_for_is_found(look):
    store = Moving()
    store.admit("b", [Call(id="c1", task_id="t", task="x")], policy=Policy.FAIR)

    assert look(store) == "a"
    assert store.looks > 1
