"""The thread that prints: many calls at once, through outages, and never for ever."""

from __future__ import annotations

import logging
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from celery_lanes.errors import StoreUnavailable
from celery_lanes.llm.http.hangup import CallCancelled, Hangup
from celery_lanes.llm.reply import TextDelta
from celery_lanes.store.memory.transcripts import MemoryTranscripts
from celery_lanes.streams import press as presses
from celery_lanes.streams import pump as pumps
from celery_lanes.streams.events import Failed, Finished
from celery_lanes.streams.press import Press, Printer
from celery_lanes.streams.pump import Patience, Pump
from celery_lanes.streams.reader import Reader

NEVER = Patience(first_token_s=1000, idle_s=1000)


class Flaky(MemoryTranscripts):
    """Fails so many times, or for some calls; with ``is_deaf`` what fails was done all the same."""

    def __init__(self, failures=0, *, is_deaf=False, away=()):
        super().__init__()
        self.failures, self.is_deaf, self.away = failures, is_deaf, set(away)

    def write(self, drafts):
        is_failing = self.failures > 0
        self.failures -= is_failing
        told = [] if is_failing and not self.is_deaf else super().write(drafts)
        gone = [is_failing or draft.task_id in self.away for draft in drafts]
        return [StoreUnavailable() if is_gone else told[at] for at, is_gone in enumerate(gone)]


@pytest.fixture(autouse=True)
def _impatient(monkeypatch):
    monkeypatch.setattr(presses, "AGAIN_S", 0.01)


def opened(press, task_id="t1"):
    pump = Pump(task_id, Hangup(), NEVER)
    press.open(pump)
    return pump


def say(press, pump, *words):
    for word in words:
        if pump.add(TextDelta(text=word)):
            press.nudge()


def heard(transcripts, task_id="t1"):
    return list(Reader(task_id, transcripts, lambda: None, print, timeout_s=10))


def kinds(events):
    return [event.type for event in events]


@pytest.mark.parametrize("is_deaf", [False, True], ids=["nothing_done", "reply_lost"])
def test_an_outage_loses_and_doubles_nothing_and_is_logged_once(is_deaf, caplog):
    transcripts = Flaky(5, is_deaf=is_deaf)
    press = Press(transcripts)
    pump = opened(press)

    with caplog.at_level(logging.INFO, "celery_lanes"):
        say(press, pump, *"abc")
        pump.end(Finished())
        press.close(pump)

    events = heard(transcripts)
    assert "".join(event.text for event in events) == "abc"
    numbers = [int(event.id.partition("-")[2]) for event in events]
    assert numbers == [*range(1, len(events) + 1)]
    assert sum("not all hear" in record.message for record in caplog.records) == 1
    assert sum("are heard again" in record.message for record in caplog.records) == 1


def test_a_part_of_the_store_that_is_away_holds_up_its_own_calls_only(caplog):
    transcripts = Flaky(away={"t1"})
    press = Press(transcripts)
    unheard = opened(press)
    say(press, unheard, "late")

    with caplog.at_level(logging.INFO, "celery_lanes"):
        for task_id in ("t2", "t3"):
            pump = opened(press, task_id)
            say(press, pump, "here")
            pump.end(Finished())
            press.close(pump)
            assert kinds(heard(transcripts, task_id)) == ["start", "text", "done"]
        assert not unheard.is_over.is_set()
        transcripts.away.clear()
        unheard.end(Finished())
        press.close(unheard)

    assert kinds(heard(transcripts)) == ["start", "text", "done"]
    assert sum("not all hear" in record.message for record in caplog.records) == 1
    assert sum("are heard again" in record.message for record in caplog.records) == 1


def test_what_is_written_at_once_is_bounded_and_nobody_starves(monkeypatch):
    """After a long outage all calls together may have more than the store is waited for."""
    monkeypatch.setattr(presses, "TURN_BYTES", 1)
    monkeypatch.setattr(pumps, "ENTRY_PIECES", 1)
    transcripts, batches = MemoryTranscripts(), []
    write = transcripts.write
    transcripts.write = lambda drafts: batches.append(list(drafts)) or write(drafts)
    press = Press(transcripts)
    calls = [Pump(f"t{at}", Hangup(), NEVER) for at in range(3)]
    for call in calls:
        say(press, call, *"abcd")
        call.end(Finished())
        press.open(call)

    for call in calls:
        press.close(call)

    assert [heard(transcripts, call.task_id)[-2].text for call in calls] == ["d"] * 3
    written = [[draft.task_id for draft in drafts if draft.entry] for drafts in batches]
    assert max(map(len, written)) == 1
    turns = [task_id for drafts in written for task_id in drafts]
    assert turns[-3:] != [turns[-1]] * 3


def test_a_call_that_says_what_cannot_be_written_holds_up_no_other(caplog):
    transcripts = MemoryTranscripts()
    press = Press(transcripts)
    odd, sound = opened(press, "t1"), opened(press, "t2")

    say(press, sound, "a")
    odd.end(Failed(error_class="ValueError", attempts=({"answer": object()},)))
    press.close(odd)
    say(press, sound, "b")
    sound.end(Finished())
    press.close(sound)

    assert "".join(event.text for event in heard(transcripts, "t2")) == "ab"
    assert "cannot write what t1 says" in caplog.text
    assert "t2" not in caplog.text


def test_a_call_that_ends_while_the_store_is_away_does_not_wait_for_ever(monkeypatch, caplog):
    monkeypatch.setattr(presses, "PATIENCE_S", 0.1)
    transcripts = Flaky(10**9)
    press = Press(transcripts)
    pump = opened(press)
    pump.end(Finished())

    press.close(pump)
    transcripts.failures = 0

    assert "readers of t1 will miss its last words" in caplog.text
    other = opened(press, "t2")
    other.end(Finished())
    press.close(other)
    assert kinds(heard(transcripts, "t2")) == ["start", "done"]


def test_a_call_that_leaves_says_no_end_and_its_next_run_begins_anew():
    transcripts = MemoryTranscripts()
    press = Press(transcripts)
    first = opened(press)
    say(press, first, "half")
    reader = Reader("t1", transcripts, lambda: None, print, timeout_s=10)
    begun = [next(reader), next(reader)]
    first.leave()

    second = opened(press)
    say(press, second, "whole")
    second.end(Finished())
    press.close(second)

    assert [event.text or event.type for event in [*begun, *reader]] == [
        "start", "half", "restart", "whole", "done",
    ]  # fmt: skip


def test_a_silent_call_hears_that_it_is_to_stop(monkeypatch):
    transcripts = MemoryTranscripts()
    press = Press(transcripts)
    pump = opened(press)
    is_cut, reasons = threading.Event(), []
    monkeypatch.setattr(pump.hangup, "cut", lambda reason: reasons.append(reason) or is_cut.set())

    transcripts.stop("t1", "abort")

    assert is_cut.wait(10)
    assert isinstance(reasons[0], CallCancelled)
    pump.leave()


def test_a_process_has_one_press(monkeypatch):
    printer = Printer(MemoryTranscripts)
    first = printer.press()

    assert printer.press() is first
    monkeypatch.setattr("os.getpid", lambda: 1)  # as a forked child
    assert printer.press() is not first


def test_of_threads_that_want_a_press_at_once_only_one_starts_its_thread():
    together = threading.Barrier(4)

    def open_together():
        together.wait(10)
        return MemoryTranscripts()

    printer, presses_before = Printer(open_together), count_presses()

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: printer.press(), range(4)))
    with ThreadPoolExecutor(4) as pool:
        pumps = list(pool.map(opened, found))

    assert len(set(found)) == 1
    assert count_presses() == presses_before + 1
    for pump in pumps:
        pump.leave()


def count_presses():
    return sum(thread.name == "lanes-press" for thread in threading.enumerate())


def test_a_call_that_leaves_before_its_run_is_opened_opens_none():
    """It may run elsewhere by now."""
    transcripts = MemoryTranscripts()
    press = Press(transcripts)
    gone = Pump("t1", Hangup(), NEVER)
    write = transcripts.write
    transcripts.write = lambda drafts: gone.leave() or write(drafts)
    press.open(gone)
    assert gone.is_over.wait(10)

    transcripts.write = write
    other = opened(press, "t2")
    other.end(Finished())
    press.close(other)

    assert transcripts.last("t1") is None


def test_an_attempt_that_begins_late_does_not_silence_the_one_that_was_granted_after_it():
    transcripts = MemoryTranscripts()
    press, paused = Press(transcripts), Press(transcripts)
    live = Pump("t1", Hangup(), NEVER, granted_ms=2000)
    press.open(live)
    say(press, live, "live ")

    zombie = Pump("t1", Hangup(), NEVER, granted_ms=1000)
    reader = Reader("t1", transcripts, lambda: None, print, timeout_s=10)
    begun = [next(reader), next(reader)]
    paused.open(zombie)
    say(paused, zombie, "dead")
    zombie.end(Finished())
    paused.close(zombie)
    say(press, live, "words")
    live.end(Finished())
    press.close(live)

    assert "".join(event.text for event in [*begun, *reader]) == "live words"
