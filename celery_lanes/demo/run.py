"""The demo from start to end: two runs of the load, a live table, a summary."""

from __future__ import annotations

import time

from rich.console import Console

from celery_lanes.demo.figures import Figures
from celery_lanes.demo.load import Run
from celery_lanes.demo.options import DemoOptions
from celery_lanes.demo.screen import CallerReading, Reading, screen_on
from celery_lanes.demo.shop import POLICIES
from celery_lanes.demo.stage import Stage, staged
from celery_lanes.demo.summary import faults, summary
from celery_lanes.testing.interrupts import ending_on_sigterm

INTERRUPTED = 130
NARROWEST = 100


def run_demo(options: DemoOptions, console: Console | None = None) -> int:
    """Run it; 1 if the cap was exceeded or a call failed, 130 if interrupted."""
    console = console or _console()
    try:
        with ending_on_sigterm():
            return _run(options, console)
    except KeyboardInterrupt:
        console.print("\n  stopped; every process is ended")
        return INTERRUPTED


def _run(options: DemoOptions, console: Console) -> int:
    console.print(_introduction(options), "")
    with staged(options, console) as stage:
        runs = [run_policy(stage, policy, console) for policy in POLICIES]
    fair, fifo = runs
    console.print(summary(fair, fifo, options))
    return 1 if faults(runs, options) else 0


def run_policy(stage: Stage, policy: str, console: Console) -> Figures:
    """Run the load once."""
    options = stage.options
    run = Run(stage.app, policy, options.load)
    begin = time.monotonic()
    run.publish()
    with screen_on(console) as screen:
        for _ in run.watch(options.deadline_s):
            screen.show(_read(stage, run, time.monotonic() - begin))
    return Figures(
        policy=policy,
        served=tuple(run.served),
        failed=run.failed,
        highest=stage.hosts[policy].stub.highest,
        requests=stage.hosts[policy].requests,
        elapsed_s=time.monotonic() - begin,
    )


def _read(stage: Stage, run: Run, elapsed_s: float) -> Reading:
    host = stage.hosts[run.policy]
    done, running = run.done(), host.running()
    callers = tuple(
        CallerReading(name, total, running[name], done[name])
        for name, total in stage.options.load.items()
    )
    return Reading(
        policy=run.policy,
        elapsed_s=elapsed_s,
        callers=callers,
        busy=host.stub.inside,
        highest=host.stub.highest,
        cap=stage.options.cap,
    )


def _introduction(options: DemoOptions) -> str:
    load = options.load
    heavy, *light = load
    others = " and ".join(light)
    return (
        f"\n  [bold]{heavy}[/] queues {load[heavy]} calls, then {others} {load[light[0]]} each.\n"
        f"  Their lane lets at most [bold]{options.cap}[/] run at once; "
        f"{options.workers} workers have {options.processes} processes each.\n"
        f"  [dim]An HTTP server takes {options.service_ms} ms for a call, and counts.[/]"
    )


def _console() -> Console:
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = max(console.width, NARROWEST)
    return console
