"""``celery-lanes demo``: its figures, its screens, and the whole of it as a user starts it."""

from __future__ import annotations

import io
import math
import re
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from rich.console import Console

from celery_lanes.demo.figures import Figures, Served, jain, percentile, service_while_all_wait
from celery_lanes.demo.options import DemoOptions
from celery_lanes.demo.screen import CallerReading, LineScreen, Reading, drawn, line
from celery_lanes.demo.summary import faults, summary

ROOT = Path(__file__).parents[2]
SMALL = ["--calls", "160", "--service-ms", "30"]


@pytest.mark.parametrize(
    ("shares", "index"),
    [([3, 3, 3], 1.0), ([9, 0, 0], 1 / 3), ([1, 2, 3], 36 / 42)],
    ids=["equal", "one-takes-all", "unequal"],
)
def test_jains_index(shares, index):
    assert jain(shares) == pytest.approx(index)


def test_percentiles_are_nearest_ranks():
    values = [float(n) for n in range(1, 21)]

    assert (percentile(values, 50), percentile(values, 95), percentile(values, 100)) == (10, 19, 20)
    assert math.isnan(percentile([], 50))


def test_service_counts_only_while_all_callers_wait():
    served = [
        Served("heavy", 0.0, 0.5),  # before the others had published
        Served("heavy", 0.0, 2.0),
        Served("heavy", 0.0, 3.5),  # when alice had nothing left
        Served("alice", 1.0, 0.5),
        Served("alice", 1.0, 2.0),  # her last one: from here on she does not wait
    ]

    assert service_while_all_wait(served) == {"heavy": 1, "alice": 1}


def run_of(policy="fair", **more):
    served = tuple(Served("heavy", 0.0, n / 10) for n in range(10))
    figures = {"served": served, "failed": 0, "highest": 4, "requests": 10, "elapsed_s": 1.0}
    return Figures(policy=policy, **{**figures, **more})


@pytest.mark.parametrize(
    ("more", "fault"),
    [
        ({"highest": 5}, "fair: 5 calls at once, the cap is 4"),
        ({"failed": 2}, "fair: 2 of 40 calls failed"),
        ({"requests": 41}, "fair: 41 requests for 40 calls"),
    ],
    ids=["over-cap", "failed", "twice"],
)
def test_a_broken_promise_is_a_fault(more, fault):
    options = DemoOptions(calls=10)

    assert faults([run_of(), run_of("fifo")], options) == []
    assert faults([run_of(**more)], options) == [fault]
    assert f"FAILED: {fault}" in _text(summary(run_of(**more), run_of("fifo"), options))


def reading(done, busy=2):
    callers = (CallerReading("heavy", 10, busy, done), CallerReading("alice", 3, 0, 3))
    return Reading(policy="fair", elapsed_s=1.0, callers=callers, busy=busy, highest=3, cap=4)


def test_a_reading_shows_every_caller_and_the_slots():
    shown = _text(drawn(reading(4)))

    assert re.search(r"heavy +4 +2 +4/10", shown)
    assert re.search(r"alice +0 +0 +3/3", shown)
    assert "● ● ○ ○" in shown
    assert "fair    1.0 s   heavy 4/10   alice 3/3   slots 2/4 (highest 3)" in line(reading(4))


def test_without_a_terminal_there_are_few_lines_and_no_escape_codes():
    console = Console(file=io.StringIO(), width=100)
    screen = LineScreen(console)

    for done in (1, 2, 3, 10):
        screen.show(reading(done))

    printed = console.file.getvalue()
    assert printed.count("\n") == 2
    assert "heavy 1/10" in printed
    assert "heavy 10/10" in printed
    assert "\x1b" not in printed


def test_there_are_more_processes_than_slots():
    for workers in (1, 2, 3):
        options = DemoOptions(cap=4, workers=workers)
        assert options.workers * options.processes > options.cap


@pytest.mark.alone
def test_the_demo_shows_the_main_job():
    shown = subprocess.run(
        _demo(*SMALL), capture_output=True, text=True, timeout=90, check=False, cwd=ROOT
    )

    assert (shown.returncode, shown.stderr) == (0, "")
    assert "\x1b" not in shown.stdout
    assert re.search(r"seen by the HTTP server +4 of 4", shown.stdout)
    assert re.search(r"calls answered +380 of 380", shown.stdout)
    light_fair_s, light_fifo_s = map(float, re.search(
        r"Light callers waited ([\d.]+) s under fair, ([\d.]+) s under fifo", shown.stdout
    ).groups())  # fmt: skip
    assert light_fair_s < light_fifo_s


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "terminate"])
def test_an_interrupted_demo_leaves_no_process(number):
    command = _demo("--calls", "2000")
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    with subprocess.Popen(command, cwd=ROOT, text=True, **pipes) as demo:
        assert any("slots" in printed for printed in demo.stdout)
        started = psutil.Process(demo.pid).children(recursive=True)

        demo.send_signal(number)
        rest = demo.stdout.read()
        code = demo.wait(timeout=30)

    assert code == 130
    assert len(started) >= 4  # the server, two workers, their pool processes
    assert "Traceback" not in rest
    assert "stopped; every process is ended" in rest
    assert _gone(started)


def _gone(processes):
    _, alive = psutil.wait_procs(processes, timeout=10)
    return not [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]


def _demo(*options):
    return [sys.executable, "-c", "from celery_lanes.cli import main; main()", "demo", *options]


def _text(renderable):
    console = Console(file=io.StringIO(), width=100)
    console.print(renderable)
    return console.file.getvalue()
