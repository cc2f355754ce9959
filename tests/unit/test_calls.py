"""What an app's lanes answer of calls from without, where no worker is needed for it."""

from __future__ import annotations

import uuid

from celery import Celery

from celery_lanes import Lanes, Settings
from celery_lanes.store.calls import Call
from celery_lanes.store.rules import LaneRules, Policy


def test_a_stop_says_whether_a_lane_has_the_call():
    with Celery("calls", broker="memory://", set_as_current=False) as app:
        url = f"memory://{uuid.uuid4().hex}"
        lanes = Lanes(app, Settings.parse({"store": {"url": url}, "lanes": {"a": {}}}))
        lanes.parts.store.configure("a", LaneRules(max_concurrent=1))
        calls = [Call(id=f"n-{t}", task_id=t, task="x", caller="ann") for t in ("runs", "waits")]
        lanes.parts.store.admit("a", calls, policy=Policy.FAIR)
        lanes.parts.store.next("a", worker="w", request=1, want=1)

        assert [lanes.stop(task_id) for task_id in ("runs", "waits", "nope")] == [True, True, False]
        assert lanes.parts.store.snapshot("a").waiting == 0
