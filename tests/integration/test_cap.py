"""P1 and P5, seen from outside: the HTTP server that the calls ask counts who is inside."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.alone


def test_three_workers_of_four_processes_never_exceed_a_cap_of_five(make_shop, observer):
    shop = make_shop(rest="[lanes.ollama]\nmax_concurrent = 5")
    for _ in range(3):
        shop.worker(concurrency=4)
    observer.service = lambda request: 0.020 + (hash(str(request["messages"])) % 180) / 1000

    results = [
        shop.tasks.ask.apply_async(("ollama/x", observer.url, str(n)), caller=f"c{n % 7}")
        for n in range(500)
    ]
    for result in results:
        result.get(timeout=90)

    assert observer.served == 500
    assert observer.highest == 5
    assert (
        observer.share_at(5) > 0.6
    )  # the rest is HTTP itself, on two busy cores; quiet ones have 0.8


def test_a_cap_that_is_lowered_and_raised_at_run_time_is_obeyed(make_shop, observer):
    shop = make_shop(rest="[lanes.ollama]\nmax_concurrent = 4")
    shop.worker(concurrency=6)
    observer.service = 0.05
    store = shop.tasks.lanes.parts.store

    shop.tasks.ask.delay("ollama/x", observer.url).get(timeout=20)
    store.set_max_concurrent("ollama", 2)
    results = [shop.tasks.ask.delay("ollama/x", observer.url) for _ in range(20)]
    for result in results:
        result.get(timeout=30)
    at_two = observer.highest
    store.set_max_concurrent("ollama", 6)
    results = [shop.tasks.ask.delay("ollama/x", observer.url) for _ in range(40)]
    for result in results:
        result.get(timeout=30)

    assert (at_two, observer.highest) == (2, 6)
