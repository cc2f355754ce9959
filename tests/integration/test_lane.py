"""A lane steered while it serves: what waits already follows at once."""

from __future__ import annotations

import pytest

from celery_lanes.errors import ConfigError
from tests.integration.conftest import running, until, waiting

ONE_SLOT = "[lanes.ollama]\nmax_concurrent = 1"


def test_a_higher_cap_starts_the_backlog_and_a_lower_one_lets_what_runs_end(make_shop, observer):
    shop = make_shop(rest=ONE_SLOT)
    shop.worker(concurrency=4)
    observer.service = 0.5
    lane = shop.tasks.lanes.lane("ollama")
    results = [shop.tasks.ask.delay("ollama/x", observer.url, str(n)) for n in range(8)]
    until(lambda: observer.inside == 1)

    lane.set_max_concurrent(3)
    until(lambda: observer.inside == 3)
    lane.set_max_concurrent(1)

    assert all(result.get(timeout=20) for result in results)
    assert observer.highest == 3
    assert lane.stats().max_concurrent == 1
    assert all(record.status == 200 for record in observer.log)  # nor was one cut off


def test_a_paused_lane_starts_nothing_until_it_is_resumed(shop):
    shop.worker(queues=["plain"])
    lane = shop.tasks.lanes.lane("ollama")
    assert shop.tasks.echo.delay("ollama/x", 0).get(timeout=10) == 0

    lane.pause()
    result = shop.tasks.echo.delay("ollama/x", 1)
    assert shop.tasks.plain.delay().get(timeout=10) == "plain"
    assert (running(shop), waiting(shop), lane.stats().paused) == (0, 1, True)
    lane.resume()

    assert result.get(timeout=10) == 1


@pytest.mark.parametrize("slots", [0, -1, 100_001, 1.5])
def test_what_is_no_number_of_slots_is_refused(shop, slots):
    lane = shop.tasks.lanes.lane("ollama")

    with pytest.raises(ValueError, match="expected"):
        lane.set_max_concurrent(slots)


def test_a_lane_that_nobody_knows_is_refused_with_the_nearest_names(make_shop):
    shop = make_shop(rest=ONE_SLOT)

    with pytest.raises(ConfigError, match="no lane 'olama'; did you mean ollama"):
        shop.tasks.lanes.lane("olama")
