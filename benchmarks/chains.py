"""What a chain, a slot of its lane, and a task add to an HTTP call.

    python benchmarks/chains.py [--calls 300]

One local stub is asked in four ways, in turn: by plain httpx with its connection kept; by a chain
of two targets, whose health is in the store; by the same that holds a slot of its lane; and by the
task, through a worker of two threads, with its result. ``make bench`` shows it, too.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from timeit import timeit

import httpx
from streams import Rig, Ways, open_rig, ways

from celery_lanes.llm import Message, Request

SPEC = "ollama/small,spare/small"  # the second one is never asked: the first answers
PROMPT = "hi"
SETTLING_CALLS = 10
ASKED = Request(model=SPEC, messages=(Message(role="user", content=PROMPT),))

Ask = Callable[[], object]


def measure(calls: int) -> dict[str, Ways]:
    """Ask in each way, one call after the other, and sum up; the first few calls do not count."""
    with open_rig() as rig, by_each_way(rig) as asked:
        took: dict[str, list[float]] = {name: [] for name in asked}
        for _ in range(SETTLING_CALLS + calls):
            for name, ask in asked.items():
                took[name].append(timeit(ask, number=1))
    return {name: ways(seconds[SETTLING_CALLS:]) for name, seconds in took.items()}


@contextmanager
def by_each_way(rig: Rig) -> Iterator[dict[str, Ask]]:
    """Give the ways; all of them ask the rig's stub."""
    lanes, generate = rig.lanes, rig.app.tasks["celery_lanes.generate"]
    lanes.registry.load_env({"LLM_OLLAMA": rig.stub.dsn, "LLM_SPARE": rig.stub.dsn})
    unslotted, slotted = lanes.registry.parse(SPEC), lanes.chain(SPEC)
    body = {"model": "small", "messages": [{"role": "user", "content": PROMPT}]}
    with httpx.Client(base_url=rig.stub.url) as client:
        yield {
            "plain httpx, its connection kept": lambda: plainly(client, body),
            "`registry.parse(spec).generate`": lambda: unslotted.generate(ASKED),
            "`lanes.chain(spec).generate`": lambda: slotted.generate(ASKED),
            "`generate.delay(spec, ...).get()`": lambda: generate.delay(SPEC, PROMPT).get(30),
        }
    lanes.registry.close()


def plainly(client: httpx.Client, body: dict[str, object]) -> str:
    """Ask as one would without us."""
    answer = client.post("/chat/completions", json=body).raise_for_status().json()
    return str(answer["choices"][0]["message"]["content"])


def table(calls: int = 300) -> str:
    """Lay out each way's time, and how much of it is ours."""
    lines = [f"| a call, ms ({calls} each) | p50 | p95 | p50 above plain |", "|---|---|---|---|"]
    seen = measure(calls)
    plain, *_ = seen.values()
    for name, took in seen.items():
        above = "" if took is plain else f"{took.p50 - plain.p50:.1f}"
        lines.append(f"| {name} | {took.p50:.1f} | {took.p95:.1f} | {above} |")
    return "\n".join(lines)


def main() -> None:
    """Measure, and print the table."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--calls", type=int, default=300, help="in each way")
    print(table(options.parse_args().calls))


if __name__ == "__main__":
    main()
