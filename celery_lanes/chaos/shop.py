"""The app under test; workers and producer find it as ``celery -A celery_lanes.chaos.shop``."""

from __future__ import annotations

import http.client
import json
import os
import uuid
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from celery import Celery

from celery_lanes import CallInfo, Lanes

MODULE = "celery_lanes.chaos.shop"
LANE = "chaos"
MODEL = f"{LANE}/model"

CONFIG = """
[store]
url = "{store}"
prefix = "{name}"

[defaults]
queue_prefix = "{name}."
max_concurrent = {cap}
lease_ttl = "{lease_ttl_ms}ms"
intake = "{intake}"

[[rules]]
match = "*"
lane = "chaos"
"""

PUBLISH_RETRIES = {"max_retries": 60, "interval_start": 0, "interval_step": 0.2, "interval_max": 1}
"""How a publish is repeated, by the producer and by bodies that publish a chain's next step."""

VISIBILITY_S = 30
"""When kombu's Redis transport brings a message again that nobody has acknowledged."""


def make_app(env: Mapping[str, str]) -> Any:
    """Make the app as any shop would; its name keeps it apart from others on the same servers."""
    name, broker = env.get("CHAOS_NAME", "chaos"), env.get("CHAOS_BROKER")
    app = Celery(name, broker=broker, backend=env.get("CHAOS_RESULTS"))
    app.conf.update(
        task_default_queue=f"{name}.plain",
        control_exchange=f"{name}.control",
        event_exchange=f"{name}.events",
        broker_connection_retry_on_startup=True,
        broker_transport_options=_transport_options(broker or "", name),
        task_publish_retry_policy=PUBLISH_RETRIES,
        worker_cancel_long_running_tasks_on_connection_loss=True,  # must not concern lane calls
    )
    Lanes(app)
    return app


def _transport_options(broker: str, name: str) -> dict[str, Any]:
    if broker.startswith("amqp"):
        return {"confirm_publish": True}  # else "published" would mean nothing
    if broker.startswith("redis"):
        return {"visibility_timeout": VISIBILITY_S, "global_keyprefix": f"{name}:"}
    return {}


app = make_app(os.environ)


@app.task(bind=True, acks_late=True, reject_on_worker_lost=True, model_arg="_model")  # type: ignore[untyped-decorator] # celery
def late(self: Any, _model: str, service_ms: int, *, steps: int = 1) -> str:
    """Ask the observer; run again if the worker is lost."""
    return _ask(self.request, service_ms, steps)


@app.task(bind=True, model_arg="_model")  # type: ignore[untyped-decorator] # celery
def early(self: Any, _model: str, service_ms: int) -> str:
    """Ask the observer; end as lost if the worker is."""
    return _ask(self.request, service_ms, 1)


def _ask(request: Any, service_ms: int, steps: int) -> str:
    """Tell the observer who is asking, as often as there are steps; the answer never changes."""
    info = CallInfo.from_request(request) or CallInfo()
    said = {
        "body": uuid.uuid4().hex,
        "call": info.nonce,
        "task_id": request.id,
        "root_id": request.root_id,
        "task": request.task.rpartition(".")[2],
        "attempt": info.attempt,
        "caller": info.caller,
        "worker": request.hostname,
        "pid": os.getpid(),
    }
    for _ in range(steps):
        _post(json.dumps(said), service_ms)
    return f"answer to {request.id}"


def _post(said: str, service_ms: int) -> None:
    url = urlsplit(os.environ["CHAOS_OBSERVER"])
    connection = http.client.HTTPConnection(url.hostname or "", url.port, timeout=120)
    body = {"model": MODEL, "messages": [{"role": "user", "content": said}], "takes_ms": service_ms}
    try:
        connection.request("POST", f"{url.path}/chat/completions", json.dumps(body))
        connection.getresponse().read()
    finally:
        connection.close()
