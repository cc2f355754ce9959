"""The store thread and forks."""

from __future__ import annotations

import os
import threading

import pytest

from celery_lanes.worker.threads import unforked


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_fork_waits_until_the_store_thread_is_not_at_work():
    at_work, may_rest, has_rested = threading.Event(), threading.Event(), []

    def work() -> None:
        with unforked():
            at_work.set()
            may_rest.wait(5)
            has_rested.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    at_work.wait(5)
    threading.Timer(0.05, may_rest.set).start()

    if (child := os.fork()) == 0:
        os._exit(0 if has_rested else 1)

    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    thread.join()


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_may_work_and_fork_itself():
    if (child := os.fork()) == 0:
        with unforked():
            pass
        os._exit(0)

    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
