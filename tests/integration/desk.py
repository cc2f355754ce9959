"""A program that asks for slots, as a web server's processes would: ``desk.py WHAT ARGUMENTS``."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading

from tests.integration.shop import ask, lanes
from tests.waiting import pass_time


def crowd(url: str, processes: str, each: str, callers: str) -> None:
    """Fork processes that ask the observer through slots, in event loops; every other is urgent."""
    children = []
    for number in range(int(processes)):
        if not (child := os.fork()):
            signal.alarm(300)
            asyncio.run(_queue(url, number, int(each), f"t{number % int(callers)}"))
            os._exit(0)
        children.append(child)
    sys.exit(max(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children))


async def _queue(url: str, process: int, count: int, caller: str) -> None:
    wishes = (_wish(url, f"{caller} {n % 2} {process}-{n}", caller, n % 2) for n in range(count))
    await asyncio.gather(*wishes)


async def _wish(url: str, key: str, caller: str, priority: int) -> None:
    async with lanes.slot("ollama/x", caller=caller, priority=priority) as slot:
        await asyncio.to_thread(ask, "ollama/x", url, key)
        assert not slot.is_lost


def keep() -> None:
    """Hold a slot, with three more wishes behind it, until killed, or it is lost."""
    with lanes.slot("ollama/x") as slot:
        for _ in range(3):
            threading.Thread(target=lanes.slot("ollama/x").__enter__, daemon=True).start()
        print("holds", flush=True)  # noqa: T201
        while not slot.should_yield():
            pass_time(0.02, because="a holder of a slot asks now and then")
        print("lost", flush=True)  # noqa: T201


def fork_inside() -> None:
    """Fork while a slot is held: the child asks for its own, and gives nothing of ours back."""
    with lanes.slot("ollama/x") as slot:
        if not (child := os.fork()):
            slot.release()
            with lanes.slot("ollama/x"):
                running = lanes.parts.store.snapshot("ollama").running
            os._exit(running)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 2
        assert not slot.is_lost
        print(lanes.parts.store.snapshot("ollama").running)  # noqa: T201


def end_at_once() -> None:
    """Hold a slot, and leave without any clean-up as soon as the block has ended."""
    with lanes.slot("ollama/x"):
        pass
    os._exit(0)


if __name__ == "__main__":
    what, *arguments = sys.argv[1:]
    {"crowd": crowd, "keep": keep, "fork_inside": fork_inside, "end_at_once": end_at_once}[what](
        *arguments
    )
