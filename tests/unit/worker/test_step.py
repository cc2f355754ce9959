"""What the store thread must leave to the thread that owns the pool."""

from __future__ import annotations

import threading
from types import SimpleNamespace

from celery_lanes.worker.postman import HubPostman
from celery_lanes.worker.step import WorkerLanes


def test_the_pool_grows_in_the_thread_that_opens_the_mail_and_not_in_the_store_thread():
    """A forked child ends with the thread that forked it."""
    grown_in = []
    lanes = WorkerLanes(worker=SimpleNamespace(), lanes=SimpleNamespace(open_store=None))
    lanes.postman = HubPostman()
    lanes._view = SimpleNamespace(grow=lambda: grown_in.append(threading.get_ident()))

    store_thread = threading.Thread(target=lanes.grow)
    store_thread.start()
    store_thread.join()
    assert grown_in == []

    lanes.postman.stop()  # opens what has come
    assert grown_in == [threading.get_ident()]
