"""A slot returns when its worker dies, and only then: not because the store was away."""

from __future__ import annotations

import pytest

from celery_lanes.store.attempts import Outcome, Reaped, Reason, Release, Renewal
from celery_lanes.store.base import MAX_BATCH_BYTES

TTL_MS = 60
UNNAMED_MS = 5_000
MEMORY = pytest.mark.parametrize("kind", ["memory"])
SERVERS = pytest.mark.parametrize("kind", ["valkey", "redis"])


def test_slot_returns_when_its_worker_dies(lane):
    lane.configure(lease_ttl_ms=TTL_MS)
    lane.park()
    lane.take("dead")

    lane.reap_until(lambda: lane.counts == (0, 1, 0, 0))

    again = lane.take("alive")
    assert (again.call, again.attempt) == ("c1", 2)


def test_named_lease_lives_and_the_others_expire(lane):
    lane.configure(2, lease_ttl_ms=TTL_MS)
    lane.park(times=2)
    kept, dropped = lane.turn(2).grants

    def renewed_once_more() -> bool:
        lane.store.renew(lane.lane, worker="w1", held=[(kept.call, kept.token)])
        return lane.counts == (1, 1, 0, 0)

    lane.reap_until(renewed_once_more)

    assert lane.take().call == dropped.call


def test_renew_tells_which_leases_are_gone(lane):
    lane.configure(2)
    lane.park(times=2)
    mine, gone = lane.turn(2).grants
    lane.release(gone, Outcome.BACK)
    named = [(mine.call, mine.token), (gone.call, gone.token), ("never", "x")]

    renewal = lane.store.renew(lane.lane, worker="w1", held=named)

    assert renewal == Renewal(lost=(gone.call, "never"), put_back=0)


def test_lease_of_another_worker_is_not_renewed(lane):
    lane.configure()
    lane.park()
    grant = lane.take("w1")

    renewal = lane.store.renew(lane.lane, worker="w2", held=[(grant.call, grant.token)])

    assert renewal.lost == (grant.call,)


@MEMORY
def test_lease_that_its_worker_has_not_named_for_5_s_is_put_back(lane):
    lane.configure(2, lease_ttl_ms=60_000)
    lane.park(times=2)
    named, _ = lane.turn(2).grants
    held = [(named.call, named.token)]
    lane.clock.sleep_ms(UNNAMED_MS - 100)
    assert lane.store.renew(lane.lane, worker="w1", held=held) == Renewal()

    lane.clock.sleep_ms(200)

    assert lane.store.renew(lane.lane, worker="w1", held=held) == Renewal(put_back=1)
    assert lane.counts == (1, 1, 0, 0)


@SERVERS
def test_lease_not_named_for_5_s_is_put_back_by_the_script_too(lane):
    lane.configure(2, lease_ttl_ms=60_000)
    lane.park(times=2)
    named, unnamed = lane.turn(2).grants
    (leases,) = lane.store._keys.of_lane(lane.lane, ("leases",))
    for grant in (named, unnamed):
        lane.store._wire.client.zincrby(leases, -UNNAMED_MS - 1_000, grant.call)

    renewal = lane.store.renew(lane.lane, worker="w1", held=[(named.call, named.token)])

    assert renewal == Renewal(put_back=1)
    assert lane.take().call == unnamed.call


@SERVERS
def test_leases_of_a_dead_worker_do_not_hide_one_that_a_live_one_has_not_named(lane):
    lane.configure(1_000, lease_ttl_ms=60_000)
    lane.park(times=601)
    dead = [g for _ in range(2) for g in lane.turn(300, worker="dead").grants]
    mine = lane.take("w1")
    (leases,) = lane.store._keys.of_lane(lane.lane, ("leases",))
    for grant in (*dead, mine):
        lane.store._wire.client.zincrby(leases, -UNNAMED_MS - 1_000, grant.call)

    assert lane.store.renew(lane.lane, worker="w1", held=[]) == Renewal(put_back=1)
    assert lane.take().call == mine.call


@MEMORY
def test_unnamed_result_to_write_goes_to_another_worker(lane):
    lane.configure(lease_ttl_ms=60_000)
    lane.park(task_id="t")
    lane.store.cancel(lane.lane, "t")
    lane.closing("w1")
    lane.clock.sleep_ms(UNNAMED_MS + 1)

    assert lane.store.renew(lane.lane, worker="w1", held=[]).put_back == 1

    assert lane.closing("w2").reason is Reason.CANCELLED


def test_renewing_more_leases_than_one_batch_takes_keeps_them_all(lane):
    lane.configure(1_100)
    lane.park(times=1_100)
    grants = [g for _ in range(3) for g in lane.turn(1_100).grants]
    held = [(g.call, g.token) for g in grants]

    renewal = lane.store.renew(lane.lane, worker="w1", held=[*held, ("gone", "x")])

    assert renewal == Renewal(lost=("gone",), put_back=0)


def test_poison_call_is_a_dead_letter_after_max_leases(lane):
    lane.configure(lease_ttl_ms=TTL_MS, max_leases=2)
    lane.park()
    for attempt in [1, 2]:
        assert lane.take(f"w{attempt}").attempt == attempt
        lane.reap_until(lambda: lane.counts[0] == 0)

    closing = lane.closing("w3")

    assert closing.reason is Reason.DEAD
    assert lane.store.close(lane.lane, call=closing.call, token=closing.token)
    assert lane.store.snapshot(lane.lane).dead == 1


def test_call_acknowledged_early_is_closed_when_its_worker_dies(lane):
    lane.configure(lease_ttl_ms=TTL_MS, acks_early={"generate": True})
    lane.park()
    lane.take("dead")

    lane.reap_until(lambda: lane.counts == (0, 0, 0, 1))

    assert lane.closing().reason is Reason.LOST


def test_result_to_write_is_handed_out_again_when_its_worker_dies(lane):
    lane.configure(lease_ttl_ms=TTL_MS)
    lane.park(task_id="t")
    lane.store.cancel(lane.lane, "t")
    first = lane.closing("dead")
    assert lane.turn(0, closings=1, worker="alive").closings == ()
    handed = []

    def is_handed_out() -> bool:
        handed.extend(lane.turn(0, closings=1, worker="alive").closings)
        return bool(handed)

    lane.reap_until(is_handed_out)

    assert handed[0].call == first.call
    assert not lane.store.close(lane.lane, call=first.call, token=first.token)
    assert lane.store.close(lane.lane, call=first.call, token=handed[0].token)


def test_result_to_write_is_kept_by_renewing_it(lane):
    lane.configure(lease_ttl_ms=TTL_MS)
    lane.park(task_id="t")
    lane.store.cancel(lane.lane, "t")
    closing = lane.closing("w1")

    for _ in range(20):
        named = [(closing.call, closing.token)]
        assert lane.store.renew(lane.lane, worker="w1", held=named) == Renewal()
        lane.store.reap(lane.lane)
        lane.clock.sleep_ms(5)

    assert lane.store.close(lane.lane, call=closing.call, token=closing.token)


def test_leases_stand_still_while_the_store_is_away(lane):
    lane.configure(lease_ttl_ms=TTL_MS)
    lane.park()
    grant = lane.take()
    lane.store.reap(lane.lane)

    lane.clock.sleep_ms(10 * TTL_MS)  # nobody could reach it

    reaped = lane.store.reap(lane.lane)
    assert reaped.extended_ms >= 10 * TTL_MS
    assert lane.store.renew(lane.lane, worker="w1", held=[(grant.call, grant.token)]) == Renewal()


def test_lease_granted_after_an_outage_is_not_longer_for_it(lane):
    lane.configure(2, lease_ttl_ms=TTL_MS)
    lane.park(times=2)
    lane.take("w1")
    lane.clock.sleep_ms(10 * TTL_MS)

    lane.take("w2")

    started = lane.clock()
    lane.reap_until(lambda: lane.counts == (0, 2, 0, 0))
    assert lane.clock() - started < 9 * TTL_MS


@MEMORY
def test_lease_clock_follows_a_clock_that_jumps_back(lane):
    lane.configure(lease_ttl_ms=30_000)
    lane.park()
    lane.take("dead")
    lane.clock.now -= 3_600_000

    assert lane.store.reap(lane.lane).extended_ms == -3_600_000

    for _ in range(31):
        lane.clock.sleep_ms(1_000)
        lane.store.reap(lane.lane)
    assert lane.counts == (0, 1, 0, 0)


def test_first_reap_of_a_lane_extends_nothing(lane):
    lane.configure()

    assert lane.store.reap(lane.lane) == Reaped()


def test_reap_says_what_it_did(lane):
    lane.configure(3, lease_ttl_ms=TTL_MS, acks_early={"early": True})
    lane.park(times=2)
    lane.park(task="early")
    lane.turn(3, worker="dead")
    done = []

    def reap() -> bool:
        done.append(lane.store.reap(lane.lane))
        return lane.counts[0] == 0

    lane.until(reap)

    assert sum(r.put_back for r in done) == 2
    assert sum(r.closing for r in done) == 1


def test_expired_call_is_refunded(lane):
    lane.configure(lease_ttl_ms=TTL_MS)
    lane.park("ann", times=2, cost=100)
    lane.park("bob", times=2, cost=100)
    assert lane.take("dead").caller == "ann"

    lane.reap_until(lambda: lane.counts[0] == 0)

    assert lane.order(4) == ["ann", "bob", "ann", "bob"]


def test_late_release_of_an_expired_lease_changes_nothing(lane):
    lane.configure(lease_ttl_ms=TTL_MS)
    lane.park()
    late = lane.take("w1")
    lane.reap_until(lambda: lane.counts[0] == 0)
    lane.take("w2")

    lane.turn(0, Release(late.call, late.token), worker="w1")

    assert lane.counts == (1, 0, 0, 0)


def bring_about_death(lane, call, outcome=Outcome.LOST):
    lane.admit(call)
    lane.until(
        lambda: (grants := lane.turn().grants) and (lane.release(grants[0], outcome) or True)
    )
    closing = lane.closing()
    assert lane.store.close(lane.lane, call=closing.call, token=closing.token)


def test_dead_letters_are_read_the_youngest_first_and_hold_the_whole_call(lane):
    lane.configure(max_leases=1)
    odd = lane.call("Łukasz", task_id="a b/ü", priority=-7, cost=2.5, envelope=b"\0\xff")
    for call, outcome in ((odd, Outcome.LOST), (lane.call(), Outcome.STRANGE)):
        bring_about_death(lane, call, outcome)
        lane.clock.sleep_ms(2)

    young, old = lane.store.dead_letters(lane.lane, 10)

    assert (young.call.id, young.reason, young.attempts) == ("c2", Outcome.STRANGE, 1)
    assert (old.call, old.reason, old.attempts) == (odd, Outcome.LOST, 1)
    assert 0 < old.died_ms < young.died_ms <= lane.clock()
    assert lane.store.dead_letters(lane.lane, 1) == [young]
    assert lane.store.dead_letters("another", 1) == []


def test_a_dead_letter_is_buried_once(lane):
    lane.configure(max_leases=1)
    for call in lane.call(), lane.call():
        bring_about_death(lane, call)
        lane.clock.sleep_ms(2)
    _, old = lane.store.dead_letters(lane.lane, 9)

    assert not lane.store.bury(lane.lane, "c1", old.died_ms + 1)
    assert not lane.store.bury(lane.lane, "c2", old.died_ms)
    assert [lane.store.bury(lane.lane, "c1", old.died_ms) for _ in range(2)] == [True, False]

    assert [letter.call.id for letter in lane.store.dead_letters(lane.lane, 9)] == ["c2"]


def test_pages_of_dead_letters_hold_each_once_whatever_dies_or_is_buried_meanwhile(lane):
    lane.configure(max_leases=1)
    for _ in range(4):
        bring_about_death(lane, lane.call())
        lane.clock.sleep_ms(2)
    first = lane.store.dead_letters(lane.lane, 2)

    bring_about_death(lane, lane.call())
    lane.store.bury(lane.lane, "c4", first[0].died_ms)
    second = lane.store.dead_letters(lane.lane, 2, first[-1].died_ms)

    assert [letter.call.id for letter in (*first, *second)] == ["c4", "c3", "c2", "c1"]
    assert lane.store.dead_letters(lane.lane, 2, second[-1].died_ms) == []


@MEMORY
def test_dead_letters_of_one_millisecond_are_on_one_page(lane):
    lane.configure(max_leases=1)
    bring_about_death(lane, lane.call())
    lane.clock.sleep_ms(2)
    for _ in range(3):
        bring_about_death(lane, lane.call())

    first = lane.store.dead_letters(lane.lane, 1)
    (last,) = lane.store.dead_letters(lane.lane, 1, first[-1].died_ms)

    assert {letter.call.id for letter in first} == {"c2", "c3", "c4"}
    assert last.call.id == "c1"


def test_a_page_of_large_dead_letters_is_shorter(lane):
    lane.configure(max_leases=1)
    for _ in range(3):
        bring_about_death(lane, lane.call(envelope=b"x" * (3 * MAX_BATCH_BYTES // 8)))
        lane.clock.sleep_ms(2)

    first = lane.store.dead_letters(lane.lane, 9)
    second = lane.store.dead_letters(lane.lane, 9, first[-1].died_ms)

    assert [letter.call.id for letter in first] == ["c3", "c2"]
    assert [letter.call.id for letter in second] == ["c1"]


@pytest.mark.parametrize("limit", [0, 51, 1.5])
def test_an_odd_number_of_dead_letters_is_refused(lane, limit):
    with pytest.raises(ValueError, match="the number of dead letters"):
        lane.store.dead_letters(lane.lane, limit)


@pytest.mark.parametrize("died_ms", [-1, 1.5, "+inf", True])
def test_an_odd_time_of_death_is_refused(lane, died_ms):
    with pytest.raises(ValueError, match="the time of death"):
        lane.store.dead_letters(lane.lane, 1, died_ms)
    with pytest.raises(ValueError, match="the time of death"):
        lane.store.bury(lane.lane, "c1", died_ms)


@MEMORY
def test_dead_letters_and_old_workers_are_bounded(lane):
    lane.configure(max_leases=1)
    lane.park()
    lane.release(lane.take(), Outcome.LOST)
    closing = lane.closing()
    lane.store.close(lane.lane, call=closing.call, token=closing.token)

    lane.clock.sleep_ms(8 * 86_400_000)
    assert lane.store.reap(lane.lane).extended_ms  # first of all the silence is made good
    lane.store.reap(lane.lane)

    assert lane.store.snapshot(lane.lane).dead == 0
    ledger = lane.store._lanes[lane.lane]
    assert (ledger.replies, ledger.workers, ledger.settled) == ({}, {}, {})
