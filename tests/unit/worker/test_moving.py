"""The second half of a move, which a worker does for a call that goes on in another lane."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from celery_lanes.callinfo import HEADER, CallInfo
from celery_lanes.envelope import Envelope
from celery_lanes.errors import StoreError, StoreUnavailable
from celery_lanes.journeys.journey import moved
from celery_lanes.store.attempts import Outcome, Reason, Release
from celery_lanes.store.calls import Call, State
from celery_lanes.store.memory.store import MemoryStore
from celery_lanes.store.rules import LaneRules, Policy, Scope
from celery_lanes.worker import conversation, share
from celery_lanes.worker.conversation import Conversation
from celery_lanes.worker.share import LaneShare
from tests.store.driving import Driver, FakeClock

LEASE_S = 30


class Odd(MemoryStore):
    """A store that refuses lane "b" its calls; one whose reply is lost has them all the same."""

    error: Exception | None = None
    is_reply_lost = False
    tries = 0

    def admit(self, lane, calls, **how):
        self.tries += lane == "b"
        if lane == "b" and self.error and not self.is_reply_lost:
            raise self.error
        verdicts = super().admit(lane, calls, **how)
        if lane == "b" and self.error:
            raise self.error
        return verdicts


class Source:
    def rules(self, lane):
        return LaneRules(max_concurrent=1, lease_ttl_ms=LEASE_S * 1000, dedupe_ttl_ms=1000)

    def policy(self, lane):
        return Policy.FAIR

    def scope(self, lane):
        return Scope.CALLER


class Worker:
    """One worker's conversation with lane "a", and its hands."""

    is_open = True

    def __init__(self, name: str, store: MemoryStore) -> None:
        self.store, self.started, self.closed = store, [], []
        self.share = LaneShare("a", is_served=True, is_ready=True)
        self.talk = Conversation(name, Source(), self, self)
        self.talk.renew(store, self.share)

    def dispatch(self, attempt):
        attempt.claim()
        self.started.append(attempt)

    def close(self, lane, closing):
        self.closed.append(closing)

    def released(self, attempt):
        self.share.give_back(attempt)

    def turn(self, want=0):
        self.share.wake()
        self.talk.take_turn(self.store, self.share, want=want)

    def part(self, error) -> None:
        """Take a call, and have its body end so."""
        self.turn(1)
        attempt = self.started.pop()
        attempt.parting = error
        attempt.end()


@pytest.fixture
def clock(monkeypatch) -> FakeClock:
    """The store's clock and the workers', which go together."""
    clock = FakeClock()
    seconds = SimpleNamespace(monotonic=lambda: clock() / 1000)
    monkeypatch.setattr(conversation, "time", seconds)
    monkeypatch.setattr(share, "time", seconds)
    return clock


@pytest.fixture
def store(clock) -> Odd:
    store = Odd(clock)
    park(store, "first")
    return store


def park(store: Odd, name: str) -> None:
    header = {"nonce": name, "caller": "ann", "lane": "a", "cost": 3.0}
    envelope = Envelope(
        body=b"[]", content_type=None, content_encoding=None, headers={HEADER: header}
    )
    call = Call(id=name, task_id="t", task="x", caller="ann", cost=3.0, envelope=envelope.pack())
    store.admit("a", [call], policy=Policy.FAIR)


@pytest.fixture
def there(store, clock) -> Driver:
    there = Driver(store, clock, lane="b")
    store.configure("b", Source().rules("b"))
    return there


def counts(store, lane):
    return Driver(store, store.clock, lane=lane).counts


def test_a_move_is_done_in_the_turn_that_says_so(store, there):
    worker = Worker("w", store)
    worker.part(moved("b", {"at": 2}, model="b/y"))

    worker.turn()

    grant = there.take()
    header = Envelope.unpack(grant.envelope).headers[HEADER]
    info = CallInfo.from_header(header)
    assert (header["stage"], info.lane, info.model, info.caller) == ({"at": 2}, "b", "b/y", "ann")
    assert (info.origin, info.nonce, info.call_id) == ("first", grant.call, "first")
    assert grant.call != "first"
    record = store._lanes["b"].records[grant.call]
    assert (record.call.cost, record.call.has_waited, record.call.redelivery_ms) == (3.0, True, 0)
    assert counts(store, "a") == (0, 0, 0, 0)
    assert not worker.share.has_news


@pytest.mark.parametrize("is_reply_lost", [False, True])
def test_a_move_goes_on_when_its_next_lane_is_back_and_holds_up_nothing(
    store, there, clock, is_reply_lost
):
    worker = Worker("w", store)
    worker.part(moved("b", None))
    store.error, store.is_reply_lost = StoreUnavailable("away"), is_reply_lost
    for _ in range(2):
        worker.turn()
        assert worker.share.has_news
        assert not worker.share.must_speak  # nor is the lane asked again and again
        assert worker.share.held() == [("first", worker.share.moves[0].closing.token)]
        clock.sleep_ms(2000)
        assert worker.share.must_speak

    worker.share.shut()  # a warm shutdown, even
    store.error = None
    worker.turn()

    assert (counts(store, "a"), there.counts) == ((0, 0, 0, 0), (0, 1, 0, 0))


def test_a_next_lane_that_is_away_is_not_tried_with_each_call_that_waits_for_it(store, there):
    worker = Worker("w", store)
    store.error = StoreUnavailable("away")
    for name in ("second", "third", "fourth"):
        worker.part(moved("b", None))
        worker.turn()
        park(store, name)

    assert (len(worker.share.moves), store.tries) == (3, 1)


def test_a_worker_that_was_paused_does_not_move_a_call_again_that_has_ended(store, there, clock):
    paused = Worker("paused", store)
    paused.part(moved("b", None))
    store.error = StoreUnavailable("away")
    paused.turn()
    store.error = None
    for _ in range(10):
        clock.sleep_ms(LEASE_S * 200)
        store.reap("a")
    other = Worker("other", store)
    other.turn()
    grant = there.take()
    there.turn(0, Release(grant.call, grant.token))
    clock.sleep_ms(2000)  # b has forgotten it

    paused.turn()

    assert there.counts == (0, 0, 0, 0)
    assert not paused.share.has_news


def test_a_move_that_is_refused_holds_up_nothing_and_is_left_to_others(store, there, clock):
    worker = Worker("w", store)
    worker.part(moved("b", None))
    store.error = StoreError("WRONGTYPE")

    worker.turn()

    assert not worker.share.must_speak
    assert worker.share.held() == []
    assert store._lanes["a"].records["first"].state is State.CLOSING


def test_a_call_that_nobody_can_tell_where_it_goes_ends_as_lost(store):
    worker = Worker("w", store)
    worker.turn(1)
    (grant,) = (attempt.grant for attempt in worker.started)
    worker.share.attempts.clear()
    worker.share.releases.append(Release(grant.call, grant.token, Outcome.MOVED, envelope=b"?"))

    worker.turn()

    (closing,) = worker.closed
    assert (closing.call, closing.reason) == ("first", Reason.MOVED)
    assert not worker.share.moves


def test_a_move_of_ones_own_is_no_sign_of_more_to_close(store, there):
    worker = Worker("w", store)
    worker.part(moved("b", None))

    worker.turn()

    assert not worker.share.has_more_to_close
