"""The store thread sleeps until a letter comes, or the store calls."""

from __future__ import annotations

import os
import select

import pytest

from celery_lanes.worker.postman import Mailbox, Watch


class Pipe:
    """An ear that hears what is written into it."""

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe()

    def fileno(self) -> int:
        return self.reader


def test_a_watch_tells_the_stores_call_from_a_letter_and_from_nothing():
    box, ear = Mailbox(), Pipe()
    watch = Watch(box)

    assert not watch.wait(ear, 0)
    box.post(print)
    assert not watch.wait(ear, None)
    box.open()
    os.write(ear.writer, b"x")
    assert watch.wait(ear, None)


def test_an_ear_that_is_broken_is_to_be_listened_to_and_its_successor_is_heard():
    watch, ear, successor = Watch(Mailbox()), Pipe(), Pipe()
    assert not watch.wait(ear, 0)

    os.close(ear.reader)

    assert watch.wait(ear, None)
    assert not watch.wait(None, 0)
    os.write(successor.writer, b"x")
    assert watch.wait(successor, None)


def test_a_letter_whose_ring_was_interrupted_leaves_the_box_to_be_heard(monkeypatch):
    box = Mailbox()
    read = []

    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", interrupt)
        with pytest.raises(KeyboardInterrupt):
            box.post(read.append, "first")
    box.post(read.append, "second")

    select.select([box], [], [], 0)[0][0].open()
    assert read == ["first", "second"]
