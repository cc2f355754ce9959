"""Carries out the plan of faults, and keeps the journal of what really happened to whom."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from celery_lanes.chaos.plan import Fault, Kind
from celery_lanes.chaos.server import Server
from celery_lanes.chaos.staff import Seat, Staff

SIGNALS = {Kind.TERM: signal.SIGTERM, Kind.QUIT: signal.SIGQUIT}


@dataclass(frozen=True, slots=True)
class Struck:
    """What happened: from when until when, and to which worker (its node name).

    ``by_s`` is how far its clock jumped.
    """

    kind: Kind
    from_s: float
    until_s: float
    worker: str = ""
    by_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Lasting:
    """A fault that is not over yet, how to end it, and whether it is over after that.

    A server that is started again may take seconds until it answers.
    """

    struck: Struck
    target: str
    end: Callable[[], None]
    is_over: Callable[[], bool]


class Havoc:
    """The plan at work. One fault at a time befalls each target; others wait their turn.

    ``child_of`` names the pool process of a worker that was seen last.
    """

    def __init__(
        self,
        plan: Sequence[Fault],
        staff: Staff,
        servers: Mapping[str, Server],
        kill_producer: Callable[[], None],
        child_of: Callable[[str], int | None],
    ) -> None:
        self.journal: list[Struck] = []
        self._waiting = list(plan)
        self._lasting: list[Lasting] = []
        self._ending: list[Lasting] = []
        self._staff = staff
        self._servers = servers
        self._kill_producer = kill_producer
        self._child_of = child_of

    @property
    def left(self) -> int:
        """Faults that have not begun."""
        return len(self._waiting)

    def tick(self, now_s: float, elapsed_s: float) -> None:
        """End what has lasted, and begin what is due and finds its target ready."""
        self._end([each for each in self._lasting if now_s >= each.struck.until_s], now_s)
        for fault in [fault for fault in self._waiting if fault.at_s <= elapsed_s]:
            if self._strike(fault, now_s):
                self._waiting.remove(fault)

    def calm(self, now_s: float) -> bool:
        """End all faults, and begin no more; say whether all are over."""
        self._waiting.clear()
        self._end(list(self._lasting), now_s)
        return not self._ending

    def _end(self, lasted: Sequence[Lasting], now_s: float) -> None:
        """End these, and note which of all that were ended are over by now."""
        for lasting in lasted:
            lasting.end()
            self._lasting.remove(lasting)
            self._ending.append(lasting)
        for lasting in [each for each in self._ending if each.is_over()]:
            self._ending.remove(lasting)
            self.journal.append(replace(lasting.struck, until_s=now_s))

    def _strike(self, fault: Fault, now_s: float) -> bool:
        if fault.kind.target == "worker":
            return self._strike_worker(fault, now_s)
        if fault.kind is Kind.PRODUCER_KILL:
            self._kill_producer()
            self.journal.append(Struck(fault.kind, now_s, now_s))
            return True
        return self._strike_server(fault, now_s)

    # -- workers -------------------------------------------------------------------------------

    def _strike_worker(self, fault: Fault, now_s: float) -> bool:
        seat = self._staff.seats[fault.worker]
        if not seat.is_up or self._is_busy(f"seat {seat.number}") or seat.worker is None:
            return False
        struck = Struck(fault.kind, now_s, now_s + fault.for_s, seat.worker.name)
        if fault.kind in {Kind.PAUSE, Kind.PAUSE_CHILD}:
            return self._pause(seat, struck)
        if fault.kind is Kind.CLOCK_JUMP:
            struck = replace(struck, by_s=seat.clock.set(fault.offset_s))
        else:
            self._send_away(seat, fault, now_s)
        self.journal.append(struck)
        return True

    def _send_away(self, seat: Seat, fault: Fault, now_s: float) -> None:
        seat.back_at_s = now_s + fault.for_s
        if fault.kind is Kind.KILL:
            seat.kill()
        else:
            seat.ask_to_go(SIGNALS[fault.kind], now_s)

    def _pause(self, seat: Seat, struck: Struck) -> bool:
        worker = seat.worker
        pid = self._child_of(struck.worker)
        if worker is None or (struck.kind is Kind.PAUSE_CHILD and pid is None):
            return False
        if struck.kind is Kind.PAUSE or pid is None:
            worker.signal_all(signal.SIGSTOP)
            self._last(struck, f"seat {seat.number}", lambda: worker.signal_all(signal.SIGCONT))
        else:
            _signal(pid, signal.SIGSTOP)
            self._last(struck, f"seat {seat.number}", lambda: _signal(pid, signal.SIGCONT))
        return True

    # -- servers -------------------------------------------------------------------------------

    def _strike_server(self, fault: Fault, now_s: float) -> bool:
        server = self._servers[fault.kind.target]
        if self._is_busy(server.name):
            return False
        struck = Struck(fault.kind, now_s, now_s + fault.for_s)
        if fault.kind in {Kind.STORE_LOSS, Kind.BROKER_LOSS}:
            server.proxy.drop_replies()
            self._last(struck, server.name, _nothing)
        elif fault.kind in {Kind.STORE_CUT, Kind.BROKER_CUT}:
            server.proxy.cut()
            self._last(struck, server.name, server.proxy.restore)
        else:
            server.take_down(is_hard=fault.is_hard)
            self._last(struck, server.name, server.bring_up, server.is_up)
        return True

    def _is_busy(self, target: str) -> bool:
        return any(lasting.target == target for lasting in (*self._lasting, *self._ending))

    def _last(
        self,
        struck: Struck,
        target: str,
        end: Callable[[], None],
        is_over: Callable[[], bool] = lambda: True,
    ) -> None:
        self._lasting.append(Lasting(struck, target, end, is_over))


def _signal(pid: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def _nothing() -> None:
    """End a fault that is over by itself."""
