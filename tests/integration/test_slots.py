"""``lanes.slot``: code outside tasks, in processes of its own, beside a lane's workers."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import groupby

import pytest

from celery_lanes.testing.proxy import Proxy
from tests.integration.conftest import ROOT, Shop, running, until, waiting


@pytest.fixture
def desk() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """The program that asks for slots, to be started."""
    with ExitStack() as exits:

        def start(shop: Shop, *arguments: object) -> subprocess.Popen[str]:
            command = [sys.executable, "-m", "tests.integration.desk", *map(str, arguments)]
            program = subprocess.Popen(
                command, env=shop.full_env, cwd=ROOT, stdout=subprocess.PIPE, text=True
            )
            exits.enter_context(program)
            exits.callback(program.kill)
            return program

        yield start


def assert_they_share(
    make_shop, observer, desk, *, processes: int, each: int, calls: int, patience_s: float
):
    """Let processes with tickets, and a worker with calls, ask the observer on one lane.

    All of them wait before the first is served, so that it can be told whose turn it is.
    """
    callers, cap = 4, 5
    shop = make_shop(rest=f"[lanes.ollama]\nmax_concurrent = {cap}", lease_ttl="10s")
    shop.worker(concurrency=cap)
    observer.service = 0.005
    lane, results = shop.tasks.lanes.lane("ollama"), []
    shop.tasks.echo.delay("ollama/x").get(timeout=20)  # its settings are known
    lane.pause()
    crowd = desk(shop, "crowd", observer.url, processes, each, callers)
    for number in range(calls):
        caller, priority = f"c{number % callers}", number // callers % 2
        key = f"{caller} {priority} {number}"
        results.append(
            shop.tasks.ask.apply_async(
                ("ollama/x", observer.url, key), caller=caller, lane_priority=priority
            )
        )
    until(lambda: waiting(shop) == processes * each + calls, timeout_s=60)

    lane.resume()
    assert crowd.wait(timeout=patience_s) == 0
    for result in results:
        result.get(timeout=patience_s)

    assert observer.served == processes * each + calls
    assert observer.highest <= cap  # a busy machine may not get so far
    until(lambda: (running(shop), waiting(shop)) == (0, 0))
    assert_fair_and_in_order(observer.log, cap)


def assert_fair_and_in_order(log, cap: int) -> None:
    """Check shares and order by when the requests began, up to those that overlap."""
    began = [record.prompt.split() for record in sorted(log, key=lambda record: record.start_s)]
    asked = Counter(caller for caller, _, _ in began)
    served = Counter(dict.fromkeys(asked, 0))
    for caller, _, _ in began:
        served[caller] += 1
        if all(served[other] < asked[other] - cap for other in asked):  # all of them wait
            assert max(served.values()) - min(served.values()) <= 2 + 2 * cap
    for caller, of_caller in groupby(sorted(began, key=lambda key: key[0]), lambda key: key[0]):
        urgent = [priority == "1" for _, priority, _ in of_caller]
        too_late = urgent[sum(urgent) + cap :]
        assert not any(too_late), f"an urgent one of {caller} came after others"


def test_tickets_and_calls_share_a_lane(make_shop, observer, desk):
    assert_they_share(make_shop, observer, desk, processes=4, each=20, calls=80, patience_s=60)


@pytest.mark.alone
@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_thousand_tickets_of_twenty_processes_beside_a_thousand_calls(make_shop, observer, desk):
    assert_they_share(make_shop, observer, desk, processes=20, each=50, calls=1000, patience_s=300)


@pytest.mark.crash
def test_a_holder_that_is_killed_gives_its_slot_back_by_its_lease(make_shop, desk):
    shop = make_shop(rest="[lanes.ollama]\nmax_concurrent = 1", lease_ttl="3s")
    holder = desk(shop, "keep")
    assert holder.stdout.readline() == "holds\n"
    until(lambda: (running(shop), waiting(shop)) == (1, 3))

    holder.send_signal(signal.SIGKILL)
    holder.wait(timeout=10)
    killed_at = time.monotonic()
    with shop.tasks.lanes.slot("ollama/x", caller="bob", max_wait=30):
        waited_s = time.monotonic() - killed_at
        assert running(shop) == 1

    assert waited_s > 1  # a lease was left to run out
    until(lambda: (running(shop), waiting(shop)) == (0, 0))


def test_a_holder_that_is_stopped_for_longer_than_its_lease_learns_that_its_slot_is_lost(
    make_shop, desk
):
    shop = make_shop(rest="[lanes.ollama]\nmax_concurrent = 1", lease_ttl="3s")
    holder = desk(shop, "keep")
    assert holder.stdout.readline() == "holds\n"
    until(lambda: (running(shop), waiting(shop)) == (1, 3))

    holder.send_signal(signal.SIGSTOP)
    with shop.tasks.lanes.slot("ollama/x", caller="bob", max_wait=30) as slot:
        holder.send_signal(signal.SIGCONT)
        assert holder.stdout.readline() == "lost\n"
        assert not slot.is_lost
        assert running(shop) == 1


def test_a_child_that_is_forked_in_a_block_holds_slots_of_its_own(make_shop, desk):
    shop = make_shop()

    parent = desk(shop, "fork_inside")

    assert parent.communicate(timeout=30)[0] == "1\n"
    assert parent.returncode == 0


def test_a_slot_is_free_when_its_block_has_ended_even_if_the_process_ends_with_it(make_shop, desk):
    shop = make_shop(lease_ttl="60s")

    assert desk(shop, "end_at_once").wait(timeout=30) == 0

    assert running(shop) == 0


@pytest.mark.parametrize("pool", ["prefork", "threads", "gevent"])
def test_a_task_of_another_queue_holds_slots_of_a_lane(make_shop, observer, pool):
    shop = make_shop(rest="[lanes.ollama]\nmax_concurrent = 2")
    shop.worker("other", queues=["plain"], pool=pool, concurrency=6)
    observer.service = 0.02

    results = [shop.tasks.by_slot.delay(observer.url, f"{n}") for n in range(30)]

    assert [result.get(timeout=60) for result in results] == [f"{n}" for n in range(30)]
    assert observer.highest == 2
    until(lambda: (running(shop), waiting(shop)) == (0, 0))


def test_a_waiter_whose_connection_breaks_is_granted_its_slot_all_the_same(make_shop, make_store):
    store = make_store()
    with Proxy(store.port) as proxy:
        shop = make_shop(rest="[lanes.ollama]\nmax_concurrent = 1")
        shop.store = f"redis://127.0.0.1:{proxy.port}/0"
        shop.configure(rest="[lanes.ollama]\nmax_concurrent = 1", lease_ttl="20s")
        lanes, granted = shop.tasks.lanes, threading.Event()

        def wait() -> None:
            with lanes.slot("ollama/x"):
                granted.set()

        with lanes.slot("ollama/x"):
            waiter = threading.Thread(target=wait)
            waiter.start()
            until(lambda: waiting(shop) == 1)
            proxy.cut()
            assert not granted.wait(1.5)
            proxy.restore()

        assert granted.wait(20)
        waiter.join(20)
        until(lambda: (running(shop), waiting(shop)) == (0, 0))
