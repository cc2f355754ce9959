"""The app that integration tests run: a shop's tasks, as they were before it had lanes."""

from __future__ import annotations

import json
import os
import time
from contextlib import suppress
from pathlib import Path
from urllib.request import Request as HttpRequest
from urllib.request import urlopen

from celery import Celery, Task
from celery.exceptions import Ignore, Reject
from celery.utils.log import get_task_logger
from celery.worker.request import Request as WorkerRequest
from pydantic import BaseModel

from celery_lanes import CallInfo, Lanes, Preempted, call_context
from tests.waiting import pass_time

logger = get_task_logger(__name__)
app = Celery("shop", broker=os.environ.get("SHOP_BROKER"), backend=os.environ.get("SHOP_BACKEND"))
app.conf.update(
    broker_connection_retry_on_startup=True,
    worker_hijack_root_logger=True,
    task_default_queue="plain",
    broker_transport_options={"visibility_timeout": 3600},
)
app.conf.update(json.loads(os.environ.get("SHOP_CONF", "{}")))
if app.conf.security_key:
    app.setup_security()
lanes = Lanes(app)


@app.task
def echo(model: str, value: object = None) -> object:
    """Give back what came."""
    return value


@app.task(bind=True)
def whose(self, model: str = "ollama/x") -> dict:
    """Say whose call this is, as the body sees it."""
    info = CallInfo.from_request(self.request)
    return {
        "caller": info.caller,
        "run_id": info.run_id,
        "lane": info.lane,
        "model": info.model,
        "attempt": info.attempt,
        "priority": info.priority,
        "timelimit": list(self.request.timelimit or []),
        "eta": self.request.eta,
    }


@app.task
def fail(model: str, text: str = "boom") -> None:
    """Fail."""
    raise ValueError(text)


@app.task
def ask(model: str, url: str, key: str = "") -> str:
    """Ask the observer, an HTTP server that counts who is inside."""
    body = {"model": model, "messages": [{"role": "user", "content": key}]}
    request = HttpRequest(
        f"{url}/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urlopen(request, timeout=60) as reply:
        return json.load(reply)["choices"][0]["message"]["content"]


@app.task(acks_late=True, reject_on_worker_lost=True)
def ask_late(model: str, url: str, key: str = "") -> str:
    """Ask; run again if the worker is lost."""
    return ask(model, url, key)


@app.task(bind=True)
def parent(self, model: str) -> str:
    """Publish a child, which inherits caller and run id."""
    return whose.delay("ollama/child").id


@app.task(bind=True)
def urgent_parent(self, model: str) -> str:
    """Publish a child that is urgent."""
    with call_context(priority=7):
        return whose.delay("ollama/child").id


@app.task(bind=True)
def retried(self, model: str) -> dict:
    """Retry once; say whose and how urgent the call is then."""
    if not self.request.retries:
        raise self.retry(countdown=0)
    info = CallInfo.from_request(self.request)
    return {"caller": info.caller, "priority": info.priority}


@app.task(bind=True, max_retries=2)
def flaky(self, model: str) -> int:
    """Succeed at the third run."""
    if self.request.retries < 2:
        raise self.retry(countdown=0.01)
    return self.request.retries


@app.task(bind=True)
def replaced(self, model: str) -> None:
    """Be replaced by another task under the same id."""
    raise self.replace(whose.s("ollama/replaced"))


@app.task
def add(model: str, *numbers: float) -> float:
    """Add."""
    return sum(numbers)


@app.task
def total(numbers: list[float], model: str = "ollama/x") -> float:
    """Sum up, as a chord's body."""
    return sum(numbers)


@app.task
def gathered(parts: list, model: str = "ollama/x") -> list:
    """Give back what came, as a chord's body."""
    return parts


@app.task(bind=True)
def refused(self, model: str, retry_after: float | None = None) -> None:
    """Be refused by a provider that the plugin does not know."""
    lanes.overloaded(self.request, retry_after=retry_after)


@app.task(bind=True, autoretry_for=(Exception,))
def wander(self, model: str, *to: str) -> list:
    """Go on through lanes; say where, whose and at which attempt the call has run."""
    info = CallInfo.from_request(self.request)
    been = (lanes.stage(self.request) or {"been": []})["been"]
    been.append([info.lane, info.caller, info.attempt])
    if len(been) <= len(to):
        lanes.move(self.request, to[len(been) - 1], {"been": been})
    return been


@app.task(bind=True)
def wander_and(self, model: str, to: str, then: str) -> list:
    """Move, then fail, or retry once; say the name of the first call, and in which lanes it ran."""
    info = CallInfo.from_request(self.request)
    stage = lanes.stage(self.request)
    if stage is None:
        lanes.move(self.request, to, {"first": info.nonce}, model=f"{to}/y")
    if then == "fail":
        raise ValueError("boom")
    if not self.request.retries:
        assert info.call_id == stage["first"] != info.nonce
        raise self.retry(countdown=0)
    return [stage["first"], info.lane]


@app.task(bind=True)
def come_back(self, model: str, delay: float | None = None, retry_after: float = 0) -> list:
    """Wait again once, perhaps with everybody; say at which attempts the call has run."""
    runs = (lanes.stage(self.request) or {"runs": []})["runs"]
    runs.append(CallInfo.from_request(self.request).attempt)
    if len(runs) == 1:
        lanes.overloaded(self.request, retry_after=retry_after)
        lanes.give_back(self.request, {"runs": runs}, delay)
    return runs


@app.task
def noted(request: object, exc: object, traceback: object, path: str = "") -> None:
    """Note whose call failed, as an errback."""
    info = CallInfo.from_request(request)
    Path(path).write_text(f"{info.caller} {info.run_id} {exc}")


@app.task(lane="gpu-imagine")
def imagine(prompt: str) -> str:
    """Name the lane outright."""
    return prompt


@app.task(model_arg="llm")
def other_name(text: str, llm: str) -> str:
    """Name the model argument."""
    return llm


@app.task
def by_slot(url: str, key: str = "") -> str:
    """Ask the observer in a slot of the lane, from a task that is none of the lane's."""
    with lanes.slot("ollama/x", caller="by_slot"):
        return ask("ollama/x", url, key)


@app.task
def sleep(model: str, seconds: float) -> str:
    """Sleep."""
    logger.info("begins to sleep")
    pass_time(seconds, because="so long its work takes")
    return "slept"


@app.task(acks_late=True)
def sleep_late(model: str, seconds: float) -> str:
    """Sleep, acknowledged late."""
    logger.info("begins to sleep")
    pass_time(seconds, because="so long its work takes")
    return "slept"


@app.task
def spin(model: str, seconds: float) -> None:
    """Compute, and never yield to another greenlet."""
    logger.info("begins to spin")
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


@app.task
def refuse(model: str) -> None:
    """Reject the message."""
    raise Reject("no", requeue=False)


@app.task
def ignore(model: str) -> None:
    """Ignore the message."""
    raise Ignore


@app.task
def leave(model: str) -> None:
    """Raise SystemExit."""
    raise SystemExit(3)


@app.task
def exhaust(model: str) -> None:
    """Run out of memory."""
    raise MemoryError("too much")


@app.task
def die(model: str) -> None:
    """Kill the pool process."""
    os.kill(os.getpid(), 9)


@app.task(bind=True)
def waited(self, model: str, seconds: float) -> float:
    """Sleep; say how long the call had waited."""
    pass_time(seconds, because="so long its work takes")
    return CallInfo.from_request(self.request).wait_s


@app.task(acks_late=True, reject_on_worker_lost=True)
def die_late(model: str) -> None:
    """Kill the pool process each time."""
    os.kill(os.getpid(), 9)


@app.task
def plain() -> str:
    """Run outside any lane."""
    return "plain"


@app.task(ignore_result=True)
def mark(model: str, text: str) -> None:
    """Leave a mark, in the order of execution."""
    app.backend.client.rpush("marks", text)


@app.task(ignore_result=True, lane_priority=5)
def mark_soon(model: str, text: str) -> None:
    """Leave a mark; how urgent it is stands in the task."""
    app.backend.client.rpush("marks", text)


def marked() -> list[str]:
    """Read the marks."""
    return [mark.decode() for mark in app.backend.client.lrange("marks", 0, -1)]


@app.task(acks_late=True, acks_on_failure_or_timeout=False)
def fail_dropped(model: str) -> None:
    """Fail; the message is not to be acknowledged for that."""
    raise ValueError("dropped")


@app.task(bind=True, acks_late=True)
def refuse_once(self, model: str) -> list:
    """Reject the message at the first attempt, to have it again; say how it came then."""
    attempt = CallInfo.from_request(self.request).attempt
    if attempt == 1 and not self.request.delivery_info["redelivered"]:
        raise Reject("again", requeue=True)
    return [attempt, self.request.delivery_info["redelivered"]]


@app.task(bind=True)
def stamped(self, model: str) -> str:
    """Give the stamp of the order this call belongs to."""
    return self.request.stamps["order"]


class Order(BaseModel):
    """What an order is."""

    item: str
    count: int = 1


def one_more(model, order):
    """Take and give pydantic models."""
    return Order(item=order.item, count=order.count + 1)


one_more.__annotations__ = {"order": Order, "return": Order}  # Celery 5.5 takes no text for a type
ordered = app.task(pydantic=True, name=f"{__name__}.ordered")(one_more)


@app.task
def process(model: str) -> int:
    """Say which process this is."""
    return os.getpid()


@app.task(bind=True)
def die_once(self, model: str) -> int:
    """Kill the pool process at the first attempt."""
    attempt = CallInfo.from_request(self.request).attempt
    if attempt == 1 and self.request.retries == 0:
        os.kill(os.getpid(), 9)
    return attempt + self.request.retries


@app.task(bind=True, acks_late=True, acks_on_failure_or_timeout=False, time_limit=1)
def too_slow_once(self, model: str) -> int:
    """Take too long at the first attempt."""
    attempt = CallInfo.from_request(self.request).attempt
    if attempt == 1:
        pass_time(60, because="its time limit is 1 s")
    return attempt


class MarkingRequest(WorkerRequest):
    """A worker's request that leaves a mark when a process has accepted it."""

    def on_accepted(self, *args) -> None:
        super().on_accepted(*args)
        app.backend.client.rpush("marks", "request")


class MarkingTask(Task):
    """A task that leaves marks before and after it runs."""

    Request = MarkingRequest

    def before_start(self, *args) -> None:
        app.backend.client.rpush("marks", "before")

    def after_return(self, *args) -> None:
        app.backend.client.rpush("marks", "after")


@app.task(base=MarkingTask)
def handled(model: str) -> None:
    """Run between the handlers."""


@app.task(bind=True, preemptible=True, lane_priority=-10)
def polite(self, model: str, seconds: float) -> int:
    """Work on, looking now and then whether to make room; say at which attempt it was done."""
    app.backend.client.rpush("marks", "begun")
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass_time(0.01, because="it works in steps")
        if self.should_yield():
            raise Preempted
    return CallInfo.from_request(self.request).attempt


@app.task(bind=True, preemptible=True, lane_priority=-10, autoretry_for=(Exception,))
def saving(self, model: str) -> int:
    """Save the work when told to make room; be quick at the second attempt."""
    app.backend.client.rpush("marks", "begun")
    attempt = CallInfo.from_request(self.request).attempt
    try:
        pass_time(30 if attempt == 1 else 0, because="it is told to make room meanwhile")
    except Preempted:
        app.backend.client.rpush("marks", "saved")
        raise
    return attempt


@app.task(bind=True, preemptible=True, lane_priority=-10)
def deaf(self, model: str, to: str) -> int:
    """Go on at the first attempt, whatever is raised: "polite" requests only, or all."""
    app.backend.client.rpush("marks", "begun")
    attempt = CallInfo.from_request(self.request).attempt
    unheard = Exception if to == "requests" else BaseException
    end = time.monotonic() + (30 if attempt == 1 else 0)
    while time.monotonic() < end:
        with suppress(unheard):
            pass_time(0.01, because="it works in steps")
    return attempt
