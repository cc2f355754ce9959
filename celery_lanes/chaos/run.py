"""The chaos suite from start to end: a storm, a calm in which all must end, a report."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from rich.console import Console

from celery_lanes.chaos.details import details
from celery_lanes.chaos.evidence import Evidence, must_end
from celery_lanes.chaos.faults import Havoc
from celery_lanes.chaos.figures import Figures
from celery_lanes.chaos.load import accepted_ids
from celery_lanes.chaos.options import ChaosOptions
from celery_lanes.chaos.plan import planned
from celery_lanes.chaos.promises import breaches
from celery_lanes.chaos.report import lines, report, to_json
from celery_lanes.chaos.screen import lines_on
from celery_lanes.chaos.server import address
from celery_lanes.chaos.stage import Stage, staged
from celery_lanes.testing.interrupts import ending_on_sigterm

INTERRUPTED = 130
START_S = 8.0
"""What the workers are given before the first publish."""

TICK_S = 0.05
LOOK_EVERY_S = 1.0
LATE_FAULTS = 0.25
"""How much longer the storm may last, for faults whose target was not ready in time."""


def run_chaos(options: ChaosOptions, console: Console | None = None) -> int:
    """Run it; 1 if a promise was broken, 130 if interrupted."""
    console = console or Console(highlight=False)
    try:
        with ending_on_sigterm():
            return _run(options, console)
    except KeyboardInterrupt:
        console.print("\n  stopped; every process is ended")
        return INTERRUPTED


def conclude(seen: Evidence, options: ChaosOptions, console: Console) -> int:
    """Report; 1 if a promise was broken."""
    shown = Figures(seen, options)
    if console.is_terminal:
        console.print(report(shown, options))
    else:
        console.print("\n".join(lines(shown, options)), soft_wrap=True)
    for line in details(seen, options):
        console.print(f"  {line}", soft_wrap=True, markup=False)
    for gone in (*seen.gone, *seen.stuck):
        console.print(f"\n  {gone.worker}, exit code {gone.exit_code}:\n{gone.trace}", markup=False)
    if options.json:
        options.json.write_text(to_json(shown, options))
    return 1 if breaches(shown, options) else 0


def _run(options: ChaosOptions, console: Console) -> int:
    for url in options.outside.values():
        address(url)
    plan = planned(options)
    console.print(f"  seed {options.seed}: {options.total} calls, {len(plan)} faults")
    console.print("\n".join(f"  {fault}" for fault in plan), soft_wrap=True)
    begin_s = time.monotonic() + START_S
    with staged(options, begin_s) as stage, lines_on(console) as show:
        seen = Storm(stage, options, begin_s, show).rage()
    return conclude(seen, options, console)


class Storm:
    """One run on its stage."""

    def __init__(
        self,
        stage: Stage,
        options: ChaosOptions,
        begin_s: float,
        show: Callable[[Callable[[], str]], None],
    ) -> None:
        self._stage = stage
        self._options = options
        self._begin_s = begin_s
        self._show = show
        self._havoc = Havoc(
            planned(options),
            stage.staff,
            stage.servers,
            stage.producer.kill,
            stage.witness.child_of,
        )

    def rage(self) -> Evidence:
        """Let the faults happen, wait until all has ended, and collect what was written down."""
        self._break_things()
        calm_s = time.monotonic()
        pending = self._drain(calm_s + self._options.drain_s)
        return self._evidence(pending, time.monotonic() - calm_s)

    @property
    def _elapsed_s(self) -> float:
        return time.monotonic() - self._begin_s

    def _break_things(self) -> None:
        usual_s = self._options.duration_s
        latest_s = usual_s * (1 + LATE_FAULTS)
        while self._elapsed_s < usual_s or (self._havoc.left and self._elapsed_s < latest_s):
            self._tick()
            self._havoc.tick(time.monotonic(), self._elapsed_s)
        while not self._havoc.calm(time.monotonic()):
            self._tick()

    def _drain(self, deadline_s: float) -> list[str]:
        """Wait until nothing is pending; else say what was at the end."""
        look_at_s, pending = 0.0, [""]
        while pending and time.monotonic() < deadline_s:
            self._tick()
            if time.monotonic() >= look_at_s:
                pending = list(self._pending())
                look_at_s = time.monotonic() + LOOK_EVERY_S
        return pending

    def _tick(self) -> None:
        self._stage.staff.tick(time.monotonic())
        self._stage.producer.tick()
        self._show(self._line)
        time.sleep(TICK_S)

    def _pending(self) -> Iterator[str]:
        """Say what has not ended: publishing, calls, and workers that the store has not heard."""
        stage = self._stage
        if not stage.producer.is_done:
            yield "the producer"
        left = list(stage.remains.left())
        if missing := self._missing() - (frozenset() if left else self._dropped()):
            yield f"{len(missing)} calls"
        yield from left
        heard, count = stage.remains.snapshot().workers, self._options.workers
        if heard != count or not all(seat.is_up for seat in stage.staff.seats):
            yield f"{heard} of {count} workers heard"

    def _missing(self) -> set[str]:
        """Name the accepted tasks that have not ended."""
        told = self._stage.producer.told()
        stored = self._stage.clerk.stored(accepted_ids(told))
        return must_end(told, stored) - set(stored)

    def _dropped(self) -> frozenset[str]:
        """Name the chord bodies that Celery did not publish; the lane is empty."""
        missing, clerk = self._missing(), self._stage.clerk
        chords = (told for told in self._stage.producer.told() if told.group)
        return frozenset(
            told.ids[-1]
            for told in chords
            if missing & set(told.ids) == {told.ids[-1]} and clerk.has_dropped(told.group)
        )

    def _evidence(self, pending: list[str], drained_s: float) -> Evidence:
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
            started_off_s=tuple(stage.staff.started_off_s),
            deserted=tuple(stage.staff.deserted),
            left=tuple(stage.remains.left()),
            dropped=self._dropped(),
            pending=tuple(pending),
            drained_s=drained_s,
            elapsed_s=self._elapsed_s,
        )

    def _line(self) -> str:
        stage = self._stage
        told, ended = len(accepted_ids(stage.producer.told())), len(stage.clerk.ended())
        return (
            f"  {self._elapsed_s:6.1f} s   accepted {told}   ended {ended}   "
            f"inside {stage.witness.stub.inside}/{self._options.cap}   "
            f"faults {len(self._havoc.journal)}, {self._havoc.left} to come"
        )
