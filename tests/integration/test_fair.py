"""P4 with real workers: who waits how long beside a caller with a long queue."""

from __future__ import annotations


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
