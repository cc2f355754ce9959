"""What is kept of a streamed reply, on every store that there is."""

from __future__ import annotations

import select
import socket
import threading
import uuid

import pytest

from celery_lanes.errors import StoreError, StoreUnavailable
from celery_lanes.store.connect import open_transcripts
from celery_lanes.store.memory.transcripts import MemoryTranscripts
from celery_lanes.store.redis import transcripts as server_transcripts
from celery_lanes.store.redis.transcripts import RedisFollower
from celery_lanes.store.transcripts import Draft, Entry, Heard, Mark

WAIT_MS, START = 1000, Mark()


@pytest.fixture
def transcripts(kind, request):
    if kind == "memory":
        yield MemoryTranscripts()
        return
    server = request.getfixturevalue(kind)
    transcripts = open_transcripts(server.url(), prefix=f"test-{uuid.uuid4().hex}")
    yield transcripts
    transcripts.disconnect()


def draft(run, last, payload="[]", *, task="t{1}", keep=START, number=1):
    return Draft(task, keep, Entry(Mark(run, last), number, payload))


def write(transcripts, *drafts):
    return [heard for one in drafts for heard in transcripts.write([one])]


def read(transcripts, after=START, task="t{1}"):
    follower = transcripts.follow(task)
    try:
        follower.ask(after, 1)
        return [(entry.last.run, entry.last.index, entry.payload) for entry in follower.take()]
    finally:
        follower.close()


def test_entries_are_read_in_their_order_from_any_place_on(transcripts):
    write(transcripts, draft(7, 2, "a"), draft(7, 5, "b"), draft(8, 1, "c", number=2))

    assert read(transcripts) == [(7, 2, "a"), (7, 5, "b"), (8, 1, "c")]
    assert read(transcripts, Mark(7, 2)) == [(7, 5, "b"), (8, 1, "c")]
    assert read(transcripts, Mark(7, 3)) == [(7, 5, "b"), (8, 1, "c")]
    assert transcripts.last("t{1}") == Entry(Mark(8, 1), 2, "c")
    assert transcripts.last("nobody") is None


def test_an_entry_whose_reply_was_lost_is_written_once(transcripts):
    write(transcripts, draft(7, 1, "a"))

    assert write(transcripts, draft(7, 1, "a")) == [Heard()]

    assert read(transcripts) == [(7, 1, "a")]


def test_a_run_that_another_has_followed_writes_nothing_more(transcripts):
    write(transcripts, draft(7, 1, "a"), draft(8, 1, "b"))

    assert write(transcripts, draft(7, 2, "late")) == [Heard(is_superseded=True)]

    assert read(transcripts) == [(7, 1, "a"), (8, 1, "b")]


def test_what_is_not_to_be_kept_goes(transcripts):
    write(transcripts, draft(7, 1, "a"), draft(7, 2, "b"), draft(7, 3, "c", keep=Mark(7, 2)))

    assert read(transcripts) == [(7, 2, "b"), (7, 3, "c")]


def test_many_write_together_and_each_is_told_whether_to_stop(transcripts):
    transcripts.stop("t2", "abort")
    transcripts.stop("t3", "drain")

    heard = transcripts.write([draft(7, 1, task="t1"), Draft("t2"), draft(7, 1, task="t3")])

    assert heard == [Heard(), Heard("abort"), Heard("drain")]
    assert transcripts.last("t2") is None


def test_who_opens_a_run_is_told_what_is_there(transcripts):
    opening = Draft("t{1}", is_opening=True)
    assert transcripts.write([opening]) == [Heard()]
    write(transcripts, draft(7, 1, "a"), draft(7, 2, "b"))
    transcripts.stop("t{1}", "drain")

    (told,) = transcripts.write([opening])

    assert told == Heard("drain", last=Entry(Mark(7, 2), 1, "b"))
    assert read(transcripts) == [(7, 1, "a"), (7, 2, "b")]


@pytest.mark.parametrize("kind", ["valkey", "redis"])
def test_an_entry_that_is_refused_costs_the_others_nothing(transcripts):
    log, _ = transcripts._keys.of_reply("t2")
    transcripts._wire.client.set(log, "no stream")

    one, refused, other = transcripts.write([draft(7, 1, task=f"t{n}") for n in (1, 2, 3)])

    assert isinstance(refused, StoreError)
    assert one == other == Heard()
    assert transcripts.last("t3") is not None


def test_a_follower_hears_of_what_comes_as_it_comes(transcripts):
    follower = transcripts.follow("t{1}")
    follower.ask(Mark(), WAIT_MS * 5)
    assert not select.select([follower.fileno()], [], [], 0.05)[0]

    writer = threading.Thread(target=write, args=(transcripts, draft(7, 1, "a")))
    writer.start()
    assert select.select([follower.fileno()], [], [], 5)[0]

    assert [entry.payload for entry in follower.take()] == ["a"]
    follower.close()
    follower.close()
    writer.join()


def test_a_follower_that_another_thread_has_closed_hears_nothing(transcripts):
    follower = transcripts.follow("t{1}")
    follower.ask(Mark(), WAIT_MS)
    follower.close()

    assert follower.take() == []


class Silent:
    """A connection to a server that takes questions and does not answer."""

    def __init__(self):
        self._sock, self._other = socket.socketpair()

    def send_packed_command(self, *_, **__):
        """Take a question."""

    def disconnect(self):
        self._sock.close()
        self._other.close()


def test_a_server_that_hangs_is_given_up_when_its_answer_is_late(monkeypatch):
    monkeypatch.setattr(server_transcripts, "GRACE_S", 0.1)
    lost = []
    follower = RedisFollower("a key", Silent, lambda: lost.append(1))
    follower.ask(Mark(), 1)

    with pytest.raises(StoreUnavailable, match="no answer"):
        follower.take()

    assert (lost, follower.fileno()) == ([1], -1)


def test_they_are_forgotten_an_hour_after_their_last_entry(transcripts, kind):
    write(transcripts, draft(7, 1))
    transcripts.stop("t{1}", "abort")

    if kind == "memory":
        transcripts._clock = lambda: 1e12
        assert transcripts.last("t{1}") is None
        assert transcripts.write([Draft("t{1}")]) == [Heard()]
    else:
        client = transcripts._wire.client
        lives = {client.pttl(key) for key in transcripts._keys.of_reply("t{1}")}
        assert all(3_590_000 < ms <= 3_600_000 for ms in lives)


@pytest.mark.parametrize("text", ["", "7", "7-", "-1", "a-1", "7-1-1", "٣-1", "9" * 30 + "-1"])
def test_what_is_no_place_is_refused(text):
    with pytest.raises(ValueError, match="expected the id of an event"):
        Mark.parse(text)
