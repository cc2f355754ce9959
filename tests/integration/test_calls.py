"""Calls through a lane, with a real worker process."""

from __future__ import annotations

import pytest

from celery_lanes import CallInfo, call_context


def test_a_call_runs_in_its_lane_and_gives_its_result(shop):
    shop.worker()

    result = shop.tasks.echo.delay("ollama/llama3.1:8b", "hi")

    assert result.get(timeout=10) == "hi"


def test_the_body_sees_whose_call_it_is(shop):
    shop.worker()

    with call_context(caller="alice", run_id="run-17"):
        seen = shop.tasks.whose.delay("ollama/llama3").get(timeout=10)

    assert (seen["caller"], seen["run_id"]) == ("alice", "run-17")
    assert (seen["lane"], seen["model"], seen["attempt"]) == ("ollama", "ollama/llama3", 1)


def test_an_error_keeps_its_class_and_says_whose_call_it_was(shop):
    shop.worker()
    result = shop.tasks.fail.apply_async(("ollama/x",), caller="bob", run_id="r1")

    with pytest.raises(ValueError, match=r"^boom$") as caught:
        result.get(timeout=10)

    info = CallInfo.from_error(caught.value)
    assert (info.caller, info.run_id, info.lane) == ("bob", "r1", "ollama")
