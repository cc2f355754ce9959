"""The app under test: no-op tasks, the same in plain Celery and in a lane."""

from __future__ import annotations

import os
import time

import redis
from celery import Celery
from celery.signals import worker_ready

from celery_lanes import Lanes

SERVER = os.environ.get("BENCH_SERVER", "redis://127.0.0.1:6379")
IN_LANES = os.environ.get("BENCH_LANES") == "1"
TURNS = os.environ.get("BENCH_TURNS", os.devnull)

app = Celery("bench", broker=f"{SERVER}/0", backend=f"{SERVER}/1")
app.conf.update(
    task_default_queue="plain",
    task_ignore_result=os.environ.get("BENCH_RESULTS") != "1",
    worker_hijack_root_logger=True,
    broker_connection_retry_on_startup=True,
)
if IN_LANES:
    Lanes(app)

marks = redis.Redis.from_url(f"{SERVER}/3", socket_timeout=None)
turns = os.open(TURNS, os.O_WRONLY | os.O_APPEND | os.O_CREAT)


@app.task
def work(model: str, number: int) -> None:  # noqa: ARG001 # a lane reads the model
    """Count down the calls that are left; the last one says so."""
    if not marks.decr("left"):
        marks.rpush("drained", 1)


@app.task
def turn(model: str, seconds: float, number: int) -> None:  # noqa: ARG001 # the same
    """Hold a slot for so long; note when that began and ended, with no round trip after the end."""
    began = time.time()
    time.sleep(seconds)
    os.write(turns, f"{began} {time.time()} {number}\n".encode())


@app.task
def stamp(model: str, published_at: float) -> None:  # noqa: ARG001 # the same
    """Note how long it took from publish to start, in seconds."""
    marks.rpush("starts", time.time() - published_at)


@worker_ready.connect
def say_so(**_: object) -> None:
    """Print the line that ``WorkerProcess`` waits for: Celery's own one is not logged here."""
    print("The bench is ready.")
