"""P4 with real workers: who waits how long beside a caller with a long queue."""

from __future__ import annotations

from tests.integration.conftest import until


def test_a_light_caller_hardly_waits_beside_five_thousand_calls_of_another(make_shop):
    shop = make_shop(rest="[lanes.ollama]\nmax_concurrent = 4")
    tasks = shop.tasks
    for _ in range(5000):
        tasks.sleep.apply_async(("ollama/x", 0.05), caller="heavy", ignore_result=True)
    shop.worker(concurrency=4)

    tasks.echo.apply_async(("ollama/x", 0), caller="other").get(timeout=20)
    waits = []
    for _ in range(20):
        result = tasks.waited.apply_async(("ollama/x", 0.05), caller="light")
        waits.append(result.get(timeout=20))

    assert sorted(waits)[18] <= 3 * 0.05 + 0.05  # three service times, and the machine's noise
    assert tasks.lanes.store.snapshot("ollama").waiting > 4000


def test_a_worker_of_two_lanes_serves_the_short_one_beside_the_long_one(make_shop):
    shop = make_shop()
    tasks = shop.tasks
    long = [tasks.sleep.delay("ollama/x", 0.1) for _ in range(30)]
    shop.worker("ollama", "openai", concurrency=1)
    long[0].get(timeout=20)

    waits = [tasks.waited.delay("openai/gpt-5", 0.05).get(timeout=20) for _ in range(3)]

    assert max(waits) < 1.0  # a call or two of the long lane, not its 29
    assert not long[-1].ready()


def test_two_callers_with_calls_waiting_take_turns_by_weight(make_shop):
    shop = make_shop(
        rest="[lanes.ollama]\nmax_concurrent = 1\n[callers.big]\nweight = 3\n[callers.small]\n"
    )
    tasks = shop.tasks
    for caller in ("big", "small"):
        for _ in range(80):
            tasks.mark.apply_async(("ollama/x", caller), caller=caller)

    shop.worker(concurrency=2)
    until(lambda: len(tasks.marked()) >= 80)

    served = tasks.marked()[:80]
    assert abs(served.count("big") - 60) <= 1
