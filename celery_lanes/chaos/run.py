"""The chaos suite from start to end: a storm, a calm in which all must end, a report."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console

from celery_lanes.chaos.faults import Havoc
from celery_lanes.chaos.figures import Evidence, figures, must_end
from celery_lanes.chaos.load import accepted_ids
from celery_lanes.chaos.options import ChaosOptions
from celery_lanes.chaos.plan import planned
from celery_lanes.chaos.promises import breaches
from celery_lanes.chaos.report import lines, report, to_json
from celery_lanes.chaos.stage import Stage, staged

INTERRUPTED = 130
START_S = 8.0
"""What the workers are given before the first publish."""

TICK_S = 0.05
LINE_EVERY_S = 10.0
LATE_FAULTS = 0.25
"""How much longer the storm may last, for faults whose target was not ready in time."""


def run_chaos(options: ChaosOptions, console: Console | None = None) -> int:
    """Run it; 1 if a promise was broken, 130 if interrupted."""
    console = console or Console(highlight=False)
    try:
        with _ending_on_sigterm():
            return _run(options, console)
    except KeyboardInterrupt:
        console.print("\n  stopped; every process is ended")
        return INTERRUPTED


def _run(options: ChaosOptions, console: Console) -> int:
    plan = planned(options)
    console.print(f"  seed {options.seed}: {options.total} calls, {len(plan)} faults:")
    for fault in plan:
        console.print(f"  {fault}", soft_wrap=True)
    begin_s = time.monotonic() + START_S
    with staged(options, begin_s) as stage:
        storm = Storm(stage, options, console, begin_s)
        seen = storm.evidence(drained_s=storm.rage())
    shown = figures(seen, options)
    if console.is_terminal:
        console.print(report(shown, options))
    else:
        console.print("\n".join(lines(shown, options)), soft_wrap=True)
    if options.json:
        options.json.write_text(to_json(shown, options))
    return 1 if breaches(shown, options) else 0


class Storm:
    """One run on its stage."""

    def __init__(
        self, stage: Stage, options: ChaosOptions, console: Console, begin_s: float
    ) -> None:
        self._stage = stage
        self._options = options
        self._console = console
        self._begin_s = begin_s
        self._line_at_s = 0.0
        self._havoc = Havoc(
            planned(options),
            stage.staff,
            stage.servers,
            stage.producer.kill,
            stage.witness.child_of,
        )

    def rage(self) -> float | None:
        """Let the faults happen, then wait until all has ended; give how long that took."""
        options, latest_s = self._options, self._options.duration_s * (1 + LATE_FAULTS)
        while self._elapsed_s < options.duration_s or (
            self._havoc.left and self._elapsed_s < latest_s
        ):
            self._tick()
            self._havoc.tick(time.monotonic(), self._elapsed_s)
        self._havoc.calm(time.monotonic())
        calm_s = time.monotonic()
        while time.monotonic() < calm_s + options.drain_s:
            self._tick()
            if self._stage.producer.is_done and self._is_over():
                return time.monotonic() - calm_s
        return None

    def evidence(self, *, drained_s: float | None) -> Evidence:
        """Collect all that was written down."""
        stage = self._stage
        published = stage.producer.told()
        return Evidence(
            published=tuple(published),
            runs=tuple(stage.witness.runs()),
            ends=tuple(stage.clerk.ends),
            stored=stage.clerk.stored(accepted_ids(published)),
            journal=tuple(self._havoc.journal),
            gone=tuple(stage.staff.gone),
            stuck=tuple(stage.staff.stuck),
            left=tuple(stage.remains.left()),
            drained_s=drained_s,
            elapsed_s=self._elapsed_s,
        )

    @property
    def _elapsed_s(self) -> float:
        return time.monotonic() - self._begin_s

    def _tick(self) -> None:
        self._stage.staff.tick(time.monotonic())
        self._stage.producer.tick()
        if self._elapsed_s >= self._line_at_s:
            self._line_at_s = self._elapsed_s + LINE_EVERY_S
            self._console.print(self._line(), soft_wrap=True)
        time.sleep(TICK_S)

    def _is_over(self) -> bool:
        """Whether every accepted call has ended and the lane is empty."""
        clerk, told = self._stage.clerk, self._stage.producer.told()
        ended = clerk.ended()
        if any(task not in ended for task in accepted_ids(told)):
            stored = clerk.stored(accepted_ids(told))
            if must_end(told, stored) - set(stored):
                return False
        time.sleep(1)  # the last releases are on their way
        return not any(self._stage.remains.left())

    def _line(self) -> str:
        stage = self._stage
        told, ended = len(accepted_ids(stage.producer.told())), len(stage.clerk.ended())
        return (
            f"  {self._elapsed_s:6.1f} s   accepted {told}   ended {ended}   "
            f"inside {stage.witness.stub.inside}/{self._options.cap}   "
            f"faults {len(self._havoc.journal)}, {self._havoc.left} to come"
        )


@contextmanager
def _ending_on_sigterm() -> Iterator[None]:
    """Clean up on SIGTERM as on Ctrl-C."""
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _interrupt(*_: Any) -> None:
    raise KeyboardInterrupt
