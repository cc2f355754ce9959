"""How a call goes through the lanes of its targets."""

from __future__ import annotations

import pytest

from celery_lanes import errors
from celery_lanes.llm.chains.effects import ChainConfig
from celery_lanes.llm.chains.journey import MAX_WAITS, Journey
from celery_lanes.llm.ledger import Attempt
from celery_lanes.llm.reply import Reply, Usage
from celery_lanes.store.quota import Quota
from tests.unit.llm.chains.rig import DOWN, INFO, WAYS, targets


def test_a_call_whose_alias_is_another_by_now_asks_whom_it_has_not_asked(legs):
    trip = legs()
    told = Attempt(target="a/x", error_class="LaneBusy", reason="too long a line")
    begun = Journey(call_id="n1", to_come=("b/old",), retries_left=3, ledger=(told,))

    reply = trip.ask("a/x,b/new", lane="b", journey=begun.model_dump_json())

    assert reply.attempts[-1].target == "b/new"
    assert trip.chains.a.requests == []


def test_a_call_that_workers_pass_to_and_fro_is_asked_where_it_is_at_last(legs):
    trip = legs()
    lanes = iter("ba" * 100)
    trip.chains.registry._lane_of = lambda _: next(lanes)  # always another than it is in

    reply = trip.ask("a/x", lane="a")

    assert reply.attempts[-1].target == "a/x"
    assert 0 < len(trip.trip) <= 3


def test_a_slots_wait_that_is_cancelled_is_nobodys_failure(chains):
    def cancelled(_):
        raise errors.WaitCancelled

    chains.a.script(cancelled)

    with pytest.raises(errors.WaitCancelled):
        chains.ask("a/x,b/y")

    assert (len(chains.a.requests), chains.b.requests) == (1, [])
    assert "bench" not in [event.kind for event in chains.told]


def test_each_target_is_asked_in_its_own_lane_and_one_call_goes_through_all(legs):
    trip = legs()
    trip.chains.a.script(DOWN, DOWN)
    trip.chains.b.script(errors.ModelNotFound("who?", 404))

    reply = trip.ask("a/x,b/y,c/z")

    assert trip.trip == ["to b", "to c"]
    assert [(a.target, a.lane, a.queued_s) for a in reply.attempts] == [
        ("a/x", "a", 3600),
        ("a/x", "a", 0),
        ("b/y", "b", 3600),
        ("c/z", "c", 3600),
    ]
    assert len({event.call_id for event in trip.chains.told}) == 1


def test_a_lane_needs_the_keys_of_its_own_providers_only(legs):
    trip = legs()
    trip.chains.a.script(errors.ModelNotFound("who?", 404))

    with pytest.raises(errors.ConfigError, match="no key for openai"):
        trip.ask("a/x,openai/y,groq/z")

    assert trip.trip == ["to openai"]


def test_targets_of_one_lane_are_asked_in_place(legs):
    trip = legs()
    trip.chains.a.script(errors.ModelNotFound("who?", 404))

    assert trip.ask("a/x,a/w").attempts[-1].target == "a/w"
    assert trip.trip == []


def test_a_call_in_the_wrong_lane_moves_before_anybody_is_asked(legs):
    trip = legs()

    assert trip.ask("a/x", lane="default").attempts[0].lane == "a"
    assert trip.trip == ["to a"]


def test_a_benched_target_is_passed_by_without_a_visit_to_its_lane(legs):
    trip = legs()
    trip.chains.b.script(errors.RateLimited("slow", 429, 60.0))
    trip.chains.ask("b/y,c/z")
    trip.chains.a.script(errors.ModelNotFound("who?", 404))

    reply = trip.ask("a/x,b/y,c/z")

    assert trip.trip == ["to c"]
    assert targets(reply.attempts) == [("a/x", "ModelNotFound"), ("b/y", "Benched"), ("c/z", None)]


def test_a_look_at_the_next_target_does_not_take_its_probe(legs):
    trip = legs()
    trip.queue_s = 0
    trip.chains.b.script(errors.RateLimited("slow", 429, 60.0))
    trip.chains.ask("b/y,c/z")
    trip.chains.now += 61
    trip.chains.a.script(errors.ModelNotFound("who?", 404))

    assert trip.ask("a/x,b/y").attempts[-1].target == "b/y"
    assert [event.kind for event in trip.chains.told[-2:]] == ["probe", "recovered"]


def test_retries_and_time_are_of_the_whole_call_and_its_waits_cost_nothing(legs):
    trip = legs(retry_budget=1)
    trip.chains.a.script(DOWN, DOWN)
    trip.chains.b.script(DOWN, DOWN)

    reply = trip.ask("a/x,b/y,c/z", timeout_s=60)

    assert targets(reply.attempts) == [
        ("a/x", "TransientError"),
        ("a/x", "TransientError"),
        ("b/y", "TransientError"),
        ("c/z", None),
    ]


def test_the_time_of_a_call_is_that_of_its_parts_in_all_lanes(legs):
    trip = legs()

    def slow(request):
        trip.chains.now += 40
        return errors.ModelNotFound("who?", 404)

    trip.chains.a.script(slow)
    trip.chains.b.script(slow)
    with pytest.raises(errors.ChainExhausted, match="c/z was not asked: the time was up"):
        trip.ask("a/x,b/y,c/z", timeout_s=60)


def test_a_target_that_others_try_by_then_is_not_asked_by_a_call_that_has_asked_somebody(legs):
    trip = legs()
    trip.chains.b.script(errors.RateLimited("slow", 429, 60.0))
    trip.chains.ask("b/y,c/z")
    trip.chains.now += 61
    trip.chains.a.script(errors.ModelNotFound("who?", 404))
    trip.on_hop = lambda: trip.chains.registry.health.enter("b/y", probe_s=99.0)

    with pytest.raises(errors.ChainExhausted, match="b/y is being tried by another call"):
        trip.ask("a/x,b/y")
    assert len(trip.chains.b.requests) == 1


def test_the_time_of_one_lane_is_not_that_of_the_next(legs):
    trip = legs()

    def hang(request):
        trip.chains.now += 299
        return errors.TransientError("a/x gave no answer")

    trip.chains.a.script(hang, hang)
    reply = trip.ask("a/x,a/w,b/y")

    assert targets(reply.attempts)[-1] == ("b/y", None)
    trip.chains.a.script(hang, hang)
    trip.chains.now += 10_000
    with pytest.raises(errors.ChainExhausted, match="b/y was not asked: the time was up"):
        trip.ask("a/x,b/y", timeout_s=290)


def test_a_lone_target_that_is_busy_lets_its_lane_wait(legs):
    trip = legs()
    trip.chains.a.script(errors.RateLimited("slow", 429, 7.0), errors.RateLimited("slow", 429))

    reply = trip.ask("a/x")

    assert trip.trip == [("lane", 7), ("call", 2)]  # the second one does not say how long
    assert trip.refused == [7, None]
    assert targets(reply.attempts) == [("a/x", "RateLimited")] * 2 + [("a/x", None)]
    assert [event.attempt for event in trip.chains.told if event.kind == "attempt_failed"] == [1, 2]


@WAYS
def test_what_is_left_is_told_as_an_answer_begins_and_is_no_part_of_the_result(legs, way):
    trip = legs()
    usage = Usage(input_tokens=1, output_tokens=1)
    used_up = (Quota("requests", 0, 60, 12_000),)
    trip.chains.a.script(Reply(text="hi", usage=usage, model="x", quotas=used_up))
    terms = {"leg": trip.leg("a"), "info": INFO}

    reply = getattr(trip.chains, way)("a/x", **terms)

    assert trip.forewarned == [used_up]
    assert (reply.quotas, "quotas" in reply.model_dump_json()) == (used_up, False)
    assert trip.refused == trip.trip == []


def test_when_all_are_benched_the_call_alone_waits_for_the_first(legs):
    trip = legs()
    trip.chains.a.script(errors.RateLimited("slow", 429, 400.0))
    trip.chains.b.script(errors.RateLimited("slow", 429, 500.0))
    trip.chains.fails("a/x,b/y")

    assert trip.ask("a/x,b/y").attempts[-1].target == "a/x"
    assert trip.trip == [("call", 400)]


def bench(chains, spec="a/x,b/y"):
    """Have the first two targets benched, the second for a shorter time."""
    chains.a.script(errors.RateLimited("slow", 429, 400.0))
    chains.b.script(errors.RateLimited("slow", 429, 300.0))
    chains.fails(spec)


def test_when_all_are_benched_a_call_may_ask_the_one_that_is_free_first_at_once(legs):
    trip = legs(on_all_benched="force")
    bench(trip.chains)

    reply = trip.ask("a/x,b/y")

    assert trip.trip == ["to b"]
    assert targets(reply.attempts) == [("a/x", "Benched"), ("b/y", "Benched"), ("b/y", None)]


def test_one_that_is_asked_although_it_is_benched_is_asked_once(legs):
    trip = legs(on_all_benched="force")
    bench(trip.chains)
    trip.chains.b.script(errors.RateLimited("slow", 429, 300.0))

    with pytest.raises(errors.ChainExhausted) as caught:
        trip.ask("a/x,b/y")

    asked = [("a/x", "Benched"), ("b/y", "Benched"), ("b/y", "RateLimited")]
    assert (targets(caught.value.attempts), trip.trip) == (asked, ["to b"])


@WAYS
def test_without_lanes_too_the_one_that_is_free_first_may_be_asked(make, way):
    chains = make(on_all_benched="force")
    bench(chains)

    assert getattr(chains, way)("a/x,b/y").attempts[-1].target == "b/y"


def test_a_call_whose_time_is_up_forces_nobody(make):
    chains = make(on_all_benched="force")
    bench(chains)
    chains.registry.register_observer(
        lambda event: chains.sleep(100) if event.kind == "skip_benched" else None
    )

    error = chains.fails("a/x,b/y", timeout_s=150)

    found = [attempt["error_class"] for attempt in error.attempts]
    assert found == ["Benched", "Benched", "OutOfTime"]


def test_a_call_may_fail_at_once_where_it_would_have_to_wait(legs):
    trip = legs(on_all_benched="raise")
    bench(trip.chains)
    trip.chains.c.script(errors.RateLimited("slow", 429, 7.0))

    with pytest.raises(errors.ChainExhausted) as caught:
        trip.ask("a/x,b/y")
    with pytest.raises(errors.RateLimited):
        trip.ask("c/z", lane="c")

    assert (caught.value.retry_after_s, trip.trip) == (300, [])


def test_another_way_than_there_is_is_refused():
    with pytest.raises(errors.ConfigError, match="on_all_benched to be wait, raise, force, got"):
        ChainConfig(on_all_benched="hope")


def test_a_lane_does_not_wait_for_the_provider_of_another(legs):
    trip = legs()
    trip.queue_s = 0
    trip.chains.a.script(errors.RateLimited("slow", 429, 20.0))
    trip.chains.b.script(errors.RateLimited("slow", 429, 400.0))

    with pytest.raises(errors.ChainExhausted):
        trip.ask("a/x,b/y")
    assert trip.trip[:2] == ["to b", ("call", 20)]


def test_a_wait_is_not_for_ever(legs):
    trip = legs()
    trip.chains.a.script(*[errors.RateLimited("slow", 429, 1.0)] * 99)

    with pytest.raises(errors.RateLimited) as caught:
        trip.ask("a/x")

    assert len(trip.trip) == MAX_WAITS
    assert len(caught.value.attempts) == MAX_WAITS + 1


def test_a_provider_that_asks_for_too_long_fails_the_call(legs):
    trip = legs()
    trip.chains.a.script(errors.RateLimited("slow", 429, 601.0))

    with pytest.raises(errors.RateLimited):
        trip.ask("a/x")
    assert trip.trip == []


def test_what_has_failed_otherwise_is_not_waited_for(legs):
    trip = legs()
    trip.chains.a.script(errors.RateLimited("slow", 429, 7.0))
    trip.chains.b.script(errors.ModelNotFound("who?", 404))

    with pytest.raises(errors.ChainExhausted):
        trip.ask("a/x,b/y")
    assert trip.trip == ["to b"]


def test_a_lane_with_too_long_a_line_is_passed_by(legs):
    trip = legs("b")
    trip.chains.a.script(errors.ModelNotFound("who?", 404))

    reply = trip.ask("a/x,b/y,c/z")

    assert trip.trip == ["to c"]
    assert targets(reply.attempts)[1] == ("b/y", "LaneBusy")
    (busy,) = [event for event in trip.chains.told if event.kind == "lane_busy"]
    assert (busy.target, busy.retry_after_s) == ("b/y", 55)


def test_when_all_other_lanes_are_busy_there_is_a_reason_for_each(legs):
    trip = legs("b", "c")
    trip.chains.a.script(errors.ModelNotFound("who?", 404))

    with pytest.raises(errors.ChainExhausted, match="b/y lane b has too long a line; c/z"):
        trip.ask("a/x,b/y,c/z")
