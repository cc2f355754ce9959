"""How long a chunk of a streamed reply takes from the provider's socket to a reader elsewhere.

    python benchmarks/streams.py [--calls 100] [--streams 200] [--pool threads]

The stub writes the time into each chunk. A reader is in this process, the pump in a worker; beside
it, plain httpx reads the same stub. ``make bench`` shows the first part.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import quantiles
from tempfile import TemporaryDirectory
from typing import NamedTuple

import httpx
from celery import Celery
from kinds import ROOT

from celery_lanes import Lanes
from celery_lanes.testing.embedded import EmbeddedValkey
from celery_lanes.testing.llm_stub import Answer, LLMStub
from celery_lanes.testing.workers import WorkerProcess

CONFIG = """
[store]
url = "{store}"
[lanes.ollama]
max_concurrent = 1000
"""
CHUNKS, PAUSE_S = 40, 0.2


class Ways(NamedTuple):
    """Milliseconds, p50 and p95: from the stub to the reader."""

    p50: float
    p95: float


class Rig:
    """A stub, a worker that streams from it, and an app that publishes calls and reads them."""

    def __init__(self, stub: LLMStub, url: str, config: Path) -> None:
        self.stub = stub
        self.app = Celery("streaming", broker=url, backend=url, set_as_current=False)
        self.lanes = Lanes(self.app, config)

    def ask(self) -> str:
        """Publish a call; give its task id."""
        generate = self.app.tasks["celery_lanes.generate"]
        return generate.apply_async(("ollama/small", "hi"), stream=True).id  # type: ignore[no-any-return]


@contextmanager
def open_rig(pool: str = "threads", concurrency: int = 2) -> Iterator[Rig]:
    """Set it up; whatever happens, no process of it is left."""
    with EmbeddedValkey() as server, LLMStub() as stub, TemporaryDirectory() as folder:
        config = Path(folder, "lanes.toml")
        config.write_text(CONFIG.format(store=server.url(2)))
        env = {
            "BENCH_SERVER": server.url(0),
            "CELERY_LANES_CONFIG": str(config),
            "LLM_OLLAMA": stub.dsn,
            "LLM_SPARE": stub.dsn,  # for chains
            "PYTHONPATH": str(ROOT),
        }
        with WorkerProcess(
            "benchmarks.streaming:app", ["lanes.ollama"],
            pool=pool, concurrency=concurrency, env=env, cwd=ROOT,
        ):  # fmt: skip
            yield Rig(stub, server.url(0), config)


def first_chunks(calls: int) -> tuple[Ways, Ways]:
    """Time the first chunk's way, call by call: by plain httpx, and through a worker."""
    with open_rig() as rig:
        plain, streamed = [], []
        for _ in range(calls + 10):
            rig.stub.script(Answer(events=timed(1)), Answer(events=timed(1)))
            plain.append(by_httpx(rig.stub.url))
            streamed.append(by_lanes(rig))
    return ways(plain[10:]), ways(streamed[10:])


def by_httpx(url: str) -> float:
    """Ask the stub, and give the first chunk's way in s."""
    body = {"model": "small", "stream": True, "messages": [{"role": "user", "content": "hi"}]}
    with httpx.stream("POST", f"{url}/chat/completions", json=body) as response:
        for line in response.iter_lines():
            return time.time() - float(json.loads(line[5:])["choices"][0]["delta"]["content"])
    raise RuntimeError("nothing came")


def by_lanes(rig: Rig) -> float:
    """Read a call's stream, and give the first chunk's way in s."""
    way = None
    for event in rig.lanes.stream(rig.ask(), timeout=30):
        if way is None and event.text:
            way = time.time() - float(event.text)
    if way is None:
        raise RuntimeError("nothing came")
    return way


def at_once(streams: int, pool: str) -> Ways:
    """Time all chunks of many streams at once on one worker; each must come, once, in order."""
    with open_rig(pool, streams) as rig:
        together = threading.Barrier(streams)
        answers = (Answer(events=timed(CHUNKS, together)) for _ in range(streams))
        rig.stub.script(*answers)
        seen = asyncio.run(read_all(rig, streams))
    for chunks, _ in seen:
        if len(chunks) != CHUNKS or chunks != sorted(chunks):
            raise RuntimeError(f"expected {CHUNKS} chunks in order, got {len(chunks)}")
    return ways([way for _, took in seen for way in took])


async def read_all(rig: Rig, streams: int) -> list[tuple[list[float], list[float]]]:
    """Read all streams in one event loop."""

    async def read(task_id: str) -> tuple[list[float], list[float]]:
        chunks: list[float] = []
        took: list[float] = []
        async for event in rig.lanes.stream(task_id, timeout=60):
            sent = [float(word) for word in event.text.split()]  # a batch may hold several
            chunks += sent
            took += [time.time() - at for at in sent]
        return chunks, took

    return await asyncio.gather(*(read(rig.ask()) for _ in range(streams)))


def timed(chunks: int, together: threading.Barrier | None = None) -> Iterator[bytes]:
    """Write the time, chunk by chunk."""
    pause = threading.Event()
    if together is not None:
        together.wait(120)
    for number in range(chunks):
        if number:
            pause.wait(PAUSE_S)
        yield chunk({"content": f"{time.time()} "})
    yield chunk({}, finish_reason="stop")
    yield b"data: [DONE]\n\n"


def chunk(delta: dict[str, str], **more: str) -> bytes:
    """Write a chunk as OpenAI does."""
    told = {"model": "small", "choices": [{"index": 0, "delta": delta, **more}]}
    return b"data: " + json.dumps(told).encode() + b"\n\n"


def ways(seconds: list[float]) -> Ways:
    """Sum up."""
    cuts = quantiles(seconds, n=100)
    return Ways(cuts[49] * 1000, cuts[94] * 1000)


def table(calls: int = 100) -> str:
    """Lay out the first chunk's way."""
    plain, streamed = first_chunks(calls)
    lines = ["| the first chunk, from the stub to its reader | p50 ms | p95 ms |", "|---|---|---|"]
    lines.append(f"| plain httpx | {plain.p50:.1f} | {plain.p95:.1f} |")
    lines.append(f"| through a worker and the store | {streamed.p50:.1f} | {streamed.p95:.1f} |")
    return "\n".join(lines)


def main() -> None:
    """Measure both, and print them."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--calls", type=int, default=100, help="for the first chunk")
    options.add_argument("--streams", type=int, default=200, help="at once")
    options.add_argument("--pool", default="threads", help="threads or gevent")
    given = options.parse_args()
    print(f"{table(given.calls)}\n")
    p50, p95 = at_once(given.streams, given.pool)
    print(
        f"{given.streams} streams at once on one worker ({given.pool}), {CHUNKS} chunks each, none"
        f" lost or out of order: p50 {p50:.0f} ms, p95 {p95:.0f} ms a chunk."
    )


if __name__ == "__main__":
    main()
