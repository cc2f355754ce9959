"""Streams through a chain."""

from __future__ import annotations

import pytest

from celery_lanes import errors
from celery_lanes.callinfo import CallInfo
from celery_lanes.llm.http.hangup import CallCancelled, Hangup, interruptible
from celery_lanes.llm.reply import Done, TextDelta
from tests.unit.llm.chains.rig import DOWN, INFO, targets


def test_a_stream_is_gone_on_from_until_its_first_piece(chains):
    chains.a.script([errors.TransientError("x")], [DOWN])

    reply = chains.whole()

    assert [a.target for a in reply.attempts] == ["a/x", "a/x", "b/y"]
    assert chains.a.closed_streams == 2


def test_a_stream_that_breaks_in_its_midst_is_gone_on_from_by_nobody(chains):
    chains.a.script(["one", DOWN])
    stream = chains.stream(info=INFO)

    assert next(stream) == TextDelta(text="one")
    with pytest.raises(errors.StreamInterrupted) as caught:
        next(stream)

    assert (chains.b.requests, chains.a.closed_streams) == ([], 1)
    assert targets(caught.value.attempts) == [("a/x", "StreamInterrupted")]
    assert caught.value.attempts[0]["possibly_billed"]
    assert CallInfo.from_error(caught.value) == CallInfo(caller="ann", run_id="r1", model="a/x")
    assert chains.kinds == ["attempt_failed", "fail_fast"]
    assert stream.partial.text == "one"
    assert list(stream) == []


def test_a_stream_that_is_cut_between_two_pieces_has_its_attempt_in_the_ledger(chains):
    hangup = Hangup()
    with interruptible(hangup), chains.stream() as stream:
        first = next(stream)
        hangup.cut(CallCancelled())
        with pytest.raises(CallCancelled) as caught:
            next(stream)

    assert [attempt["target"] for attempt in caught.value.attempts] == ["a/x"]
    assert stream.partial.text == first.text
    assert chains.a.closed_streams == 1


def test_streams_that_keep_breaking_bench_their_target(chains):
    chains.a.script(["one", DOWN], ["one", DOWN])
    for _ in range(2):
        with pytest.raises(errors.StreamInterrupted):
            chains.whole()

    assert chains.whole().attempts[0].error_class == "Benched"


def test_a_reader_who_leaves_stops_the_provider_and_gives_the_probe_back(chains):
    chains.a.script(DOWN, DOWN)
    chains.ask()
    chains.now += 5
    chains.a.script(["one", "two"])

    with chains.stream() as stream:
        next(stream)

    assert chains.a.closed_streams == 1
    assert chains.ask().attempts[0].target == "a/x"
    assert chains.kinds.count("probe") == 2


def test_a_short_silence_in_mid_reply_is_held_against_nobody(chains):
    broken = errors.StreamInterrupted("was silent for 1 s")
    broken.given_s = 1.0

    def breaks(_):
        yield "one"
        raise broken

    chains.a.script(breaks)
    with pytest.raises(errors.StreamInterrupted):
        chains.whole()

    assert chains.registry.health.conditions() == []


@pytest.mark.parametrize(("sent", "kind"), [([], "TransientError"), (["one"], "StreamInterrupted")])
def test_a_provider_that_forgets_to_end_its_stream_has_failed(chains, sent, kind):
    stream = chains.a.stream

    def endless(*args, **options):
        begun = stream(*args, **options)
        return begun.relayed((p for p in begun if not isinstance(p, Done)), lambda: None)

    chains.a.stream = endless
    chains.a.script(sent, sent)

    if sent:
        with pytest.raises(errors.StreamInterrupted, match="a/x ended its stream without Done"):
            chains.whole()
    else:
        assert chains.whole().attempts[0].error_class == kind
