"""When pieces go out, in what batches, and what is kept."""

from __future__ import annotations

import json
import math

import pytest

from celery_lanes.llm.http.hangup import CallCancelled, Hangup
from celery_lanes.llm.reply import ReasoningDelta, TextDelta, ToolCallDelta
from celery_lanes.store.transcripts import Draft, Entry, Heard, Mark
from celery_lanes.streams import pump as pumps
from celery_lanes.streams.events import Cancelled, Finished, from_json, merged
from celery_lanes.streams.pump import Patience, Pump


@pytest.fixture
def clock(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    return now


@pytest.fixture
def pump(clock):
    pump = Pump("t1", Hangup(), Patience(first_token_s=5, idle_s=2))
    opened(pump)
    printed(pump)
    return pump


def opened(pump, last=None):
    """Answer the first question: what the transcript has already."""
    assert pump.draft() == Draft("t1", is_opening=True)
    pump.hear(Heard(last=last))


def printed(pump, **heard):
    """Print what there is, as the press does; give its events."""
    draft = pump.draft()
    pump.hear(Heard(**heard))
    return [] if draft.entry is None else [told["type"] for told in json.loads(draft.entry.payload)]


def words(pump, count):
    return [pump.add(TextDelta(text="x")) for _ in range(count)]


def test_the_first_piece_goes_at_once_and_the_next_ones_after_50_ms(pump, clock):
    clock[0] += 1
    assert words(pump, 1) == [True]
    assert pump.due_at() <= clock[0]
    printed(pump)

    assert words(pump, 3) == [True, False, False]
    assert pump.due_at() == clock[0] + 0.05

    assert printed(pump) == ["text"]  # the three in one


def test_twenty_pieces_do_not_wait(pump, clock):
    words(pump, 19)
    assert pump.due_at() > clock[0]

    assert words(pump, 1) == [True]

    assert pump.due_at() < clock[0]


def test_what_has_piled_up_goes_out_in_entries_of_a_bounded_size(pump, monkeypatch):
    monkeypatch.setattr(pumps, "ENTRY_PIECES", 30)
    words(pump, 70)
    pump.end(Finished())

    sizes = []
    while not pump.is_over.is_set():
        sizes.append(pump.draft().size)
        assert printed(pump)

    assert len(sizes) == 3
    assert max(sizes) < 100


def test_a_batch_whose_printing_failed_is_the_same_when_it_is_tried_again(pump):
    words(pump, 2)
    first = pump.draft()
    words(pump, 2)

    assert pump.draft() == first
    pump.hear(Heard())

    assert pump.draft().entry.last == Mark(first.entry.last.run, first.entry.last.index + 1)


def test_a_run_that_follows_another_says_so_and_is_later_than_it():
    pump = Pump("t1", Hangup(), Patience(5, 2))
    far = 10**15

    opened(pump, Entry(Mark(far, 9), 2, "[]"))

    entry = pump.draft().entry
    assert entry.last == Mark(far + 1, 1)
    assert json.loads(entry.payload) == [{"type": "restart", "attempt": 3}]


def test_a_run_is_as_late_as_its_attempt_was_granted_whenever_it_begins():
    pump = Pump("t1", Hangup(), Patience(5, 2), granted_ms=500)

    opened(pump, Entry(Mark(900, 9), 2, "[]"))  # a later attempt has begun before it
    assert pump.draft().entry.last == Mark(500, 1)
    pump.hear(Heard(is_superseded=True))

    assert words(pump, 1) == [False]


def test_a_call_that_has_left_opens_no_run(pump):
    gone = Pump("t1", Hangup(), Patience(5, 2))
    gone.leave()

    opened(gone)

    assert not gone.has_begun


def test_a_call_that_could_not_be_heard_rests_and_says_the_same_again(pump, clock):
    words(pump, 1)
    pump.end(Finished())
    draft = pump.draft()

    pump.rest(0.5)

    assert pump.due_at() == clock[0] + 0.5
    assert pump.draft() == draft
    assert pump.is_unheard
    pump.hear(Heard())
    assert not pump.is_unheard


def test_what_is_kept_is_bounded_and_the_oldest_goes_first(pump, monkeypatch):
    monkeypatch.setattr(pumps, "MAX_BYTES", 1000)
    lasts = []
    for _ in range(10):
        pump.add(TextDelta(text="x" * 300))
        draft = pump.draft()
        lasts.append(draft.entry.last)
        printed(pump)

    assert draft.keep_from == lasts[-2]


def test_the_end_is_heard_of_when_it_has_been_printed(pump):
    words(pump, 1)
    pump.end(Finished())

    assert printed(pump) == ["text", "done"]

    assert pump.is_over.is_set()


def test_a_run_that_is_superseded_says_nothing_more_and_goes_on(pump):
    words(pump, 1)
    printed(pump, is_superseded=True)
    words(pump, 1)

    assert pump.draft().entry is None
    pump.end(Finished())
    printed(pump)

    assert pump.is_over.is_set()
    assert pump.hangup.reason is None


def test_an_abort_cuts_the_line_and_a_drain_only_tells_the_readers(pump):
    words(pump, 1)
    printed(pump, stop="drain")
    pump.look()
    words(pump, 1)

    assert printed(pump, stop="drain") == ["cancelled"]
    assert printed(pump, stop="drain") == []
    assert pump.hangup.reason is None

    printed(pump, stop="abort")
    pump.look()
    assert isinstance(pump.hangup.reason, CallCancelled)


def test_a_silent_provider_is_given_up_by_the_time_that_holds(pump, clock):
    hangup = pump.hangup
    hangup.opens()
    clock[0] += 4
    pump.look()
    assert hangup.lapsed is None

    clock[0] += 2
    pump.look()
    assert hangup.lapsed == "began no answer within 5 s"

    hangup.opens()
    hangup.lives()
    clock[0] += 3
    pump.look()
    assert hangup.lapsed == "was silent for 2 s"


def test_the_time_in_which_nobody_listens_is_not_the_providers_silence(pump, clock):
    hangup = pump.hangup
    hangup.opens()
    hangup.lives()

    with hangup.excused():
        clock[0] += 3
        pump.look()
    clock[0] += 1
    pump.look()
    assert hangup.lapsed is None

    clock[0] += 2
    pump.look()
    assert hangup.lapsed == "was silent for 2 s"
    unheard = Hangup()  # of a call without a line: nobody listens to it in any case
    with unheard.excused():
        pass
    assert unheard.sign_at == math.inf


def test_pieces_that_go_on_with_each_other_are_joined_and_nothing_else():
    thought = ReasoningDelta(text="hm", signature="s")
    pieces = [
        TextDelta(text="a"),
        TextDelta(text="\ud83d"),  # half of a letter, as some servers cut
        ReasoningDelta(text="o"),
        thought,
        ReasoningDelta(text="new"),
        ToolCallDelta(index=0, id="c", name="n", arguments='{"a'),
        ToolCallDelta(index=0, arguments='": 1}'),
        ToolCallDelta(index=1, name="m"),
    ]

    assert merged(pieces) == [
        TextDelta(text="a\ud83d"),
        ReasoningDelta(text="ohm", signature="s"),
        ReasoningDelta(text="new"),
        ToolCallDelta(index=0, id="c", name="n", arguments='{"a": 1}'),
        ToolCallDelta(index=1, name="m"),
    ]


def test_a_kind_of_event_that_a_newer_version_has_is_passed_over():
    assert from_json({"type": "smell"}) is None
    assert from_json("what?") is None
    assert from_json({"type": "cancelled", "smell": 1}) == Cancelled()


@pytest.mark.parametrize("heard", [{"stop": "drain"}, {"is_superseded": True}], ids=str)
def test_a_call_that_has_fallen_silent_keeps_nothing_and_is_looked_at_now_and_then(
    pump, clock, heard
):
    printed(pump, **heard)
    printed(pump)  # of a drained one, that it is cancelled
    clock[0] += 1
    printed(pump)

    assert words(pump, 100) == [False] * 100
    assert pump.due_at() == clock[0] + pumps.LOOK_S
    assert printed(pump) == []

    pump.end(Finished())
    assert pump.due_at() < clock[0]
    printed(pump)
    assert pump.is_over.is_set()
