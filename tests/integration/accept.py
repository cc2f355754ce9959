"""What every pool on every broker is accepted by."""

from __future__ import annotations

from typing import Any

import pytest
from celery.exceptions import WorkerLostError

from celery_lanes import CallInfo, call_context


def assert_accepted(tasks: Any) -> None:
    """Results, attribution, errors and silent ends are as users of plain Celery expect."""
    with call_context(caller="alice", run_id="r1"):
        results = [tasks.echo.delay("ollama/x", n) for n in range(30)]
        seen = tasks.whose.delay("ollama/x")
        failed = tasks.fail.delay("ollama/x")
        gone = tasks.leave.delay("ollama/x")
        moved = tasks.wander.delay("ollama/x", "ollama")
        returned = tasks.come_back.delay("ollama/x", 0.1)

    assert [result.get(timeout=20) for result in results] == list(range(30))
    whose = seen.get(timeout=20)
    assert (whose["caller"], whose["lane"], whose["attempt"]) == ("alice", "ollama", 1)
    with pytest.raises(ValueError, match=r"^boom$") as caught:
        failed.get(timeout=20)
    assert CallInfo.from_error(caught.value).caller == "alice"
    with pytest.raises(WorkerLostError) as lost:
        gone.get(timeout=20)
    assert CallInfo.from_error(lost.value).run_id == "r1"
    assert moved.get(timeout=20) == [["ollama", "alice", 1], ["ollama", "alice", 1]]
    assert returned.get(timeout=20) == [1, 2]
    again = [tasks.echo.delay("ollama/x", n) for n in range(8)]  # no slot was kept by what ended
    assert [result.get(timeout=20) for result in again] == list(range(8))
