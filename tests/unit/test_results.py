"""The result side: an error that is read says whose call it was."""

from __future__ import annotations

import uuid

import pytest
from celery import Celery
from celery.app.task import Context

from celery_lanes import CallInfo, Lanes, Settings
from celery_lanes.callinfo import HEADER


@pytest.mark.parametrize("is_used_before", [True, False])
def test_an_error_is_attributed_whether_or_not_the_backend_was_used_before_the_lanes(
    is_used_before,
):
    app = Celery("shop", broker="memory://", backend="cache+memory://", set_as_current=False)
    if is_used_before:
        assert app.backend
    Lanes(app, Settings())
    task_id, request = uuid.uuid4().hex, Context({HEADER: {"caller": "ann", "lane": "a"}})

    app.backend.mark_as_failure(task_id, ValueError("no"), request=request)

    with pytest.raises(ValueError, match="no") as error:
        app.AsyncResult(task_id).get(timeout=5)
    assert CallInfo.from_error(error.value).caller == "ann"


@pytest.mark.parametrize("how", ["a call that is lost", "a chord's part that is revoked"])
def test_an_errback_that_no_task_publishes_is_the_failed_calls(how):
    app = Celery("shop", broker="memory://", backend="cache+memory://", set_as_current=False)
    lanes = Lanes(app, Settings.parse({"store": {"url": f"memory://{uuid.uuid4().hex}"}}))

    @app.task(lane="alarm", shared=False)
    def ring(task_id):
        pass

    said = {HEADER: {"caller": "ann", "lane": "a"}, "id": uuid.uuid4().hex, "delivery_info": {}}
    if how == "a call that is lost":
        request = Context({**said, "errbacks": [ring.s()]})
        app.backend.mark_as_failure(request.id, ValueError("lost"), request=request)
    else:
        total = ring.si("sum").set(task_id=uuid.uuid4().hex).on_error(ring.s())
        request = Context({**said, "group": "of-many", "chord": total})
        app.backend.mark_as_revoked(request.id, "revoked", request=request)

    (record,) = lanes.parts.store._lanes["alarm"].records.values()
    assert record.call.caller == "ann"
