"""Everything the run needs, started in the right order and ended in the other."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from celery_lanes.chaos.load import Published, read_published
from celery_lanes.chaos.observer import Clerk, Witness
from celery_lanes.chaos.options import ChaosOptions
from celery_lanes.chaos.plan import offsets_s
from celery_lanes.chaos.remains import Remains
from celery_lanes.chaos.server import Server, served
from celery_lanes.chaos.shop import CONFIG, LANE, MODULE
from celery_lanes.chaos.staff import Seat, Staff, worker_maker
from celery_lanes.chaos.sweep import sweep
from celery_lanes.testing.embedded import EmbeddedValkey

PRODUCER = "celery_lanes.chaos.producer"


class Producer:
    """The producer's process; started again when it has been killed."""

    def __init__(
        self, file: Path, log: Path, options: ChaosOptions, env: Mapping[str, str]
    ) -> None:
        load = {**asdict(options), "json": None, "logs": None}
        self._file, self._log = file, log
        file.unlink(missing_ok=True)  # of an earlier run
        self._command = [sys.executable, "-m", PRODUCER, str(file), json.dumps(load)]
        self._env = {**os.environ, **env}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def is_done(self) -> bool:
        """Whether all is published."""
        return self._process is not None and self._process.poll() == 0

    def tick(self) -> None:
        """Start it if it is not there."""
        if self._process is None or self._process.poll() not in {None, 0}:
            with self._log.open("ab") as log:
                self._process = subprocess.Popen(  # noqa: S603 # our own interpreter
                    self._command, env=self._env, stdout=log, stderr=log
                )

    def kill(self) -> None:
        """End it in the middle of whatever it does."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def told(self) -> list[Published]:
        """Read what it was told so far."""
        return read_published(self._file)


@dataclass(frozen=True, slots=True)
class Stage:
    """What the run plays on."""

    servers: Mapping[str, Server]
    staff: Staff
    producer: Producer
    witness: Witness
    clerk: Clerk
    remains: Remains


@contextmanager
def staged(options: ChaosOptions, begin_s: float) -> Iterator[Stage]:
    """Start the servers and the observer; the run itself starts workers and producer."""
    with ExitStack() as exits:
        yield _start(exits, options, begin_s)


def _start(exits: ExitStack, options: ChaosOptions, begin_s: float) -> Stage:
    name = f"chaos-{uuid.uuid4().hex[:8]}"
    folder = Path(exits.enter_context(tempfile.TemporaryDirectory(prefix="celery-lanes-")))
    store = exits.enter_context(served("store", options.store))
    broker = exits.enter_context(served("broker", options.broker))
    if broker.embedded is None:
        exits.callback(sweep, broker.direct_url, name)
    results = exits.enter_context(EmbeddedValkey())
    witness = Witness()
    exits.enter_context(witness.stub)
    clerk = exits.enter_context(Clerk(results.url()))
    remains = exits.enter_context(Remains(store.direct_url, name, LANE))
    env = _env(name, folder, options, store, broker)
    env |= {"CHAOS_RESULTS": results.url(), "CHAOS_OBSERVER": witness.stub.url}
    env |= {"CHAOS_BEGIN": repr(begin_s)}
    make = worker_maker(MODULE, f"{name}.{LANE}", options.processes, env)
    logs = options.logs or folder
    logs.mkdir(parents=True, exist_ok=True)
    seats = range(options.workers)
    staff = Staff([Seat(seat, make, logs, offsets_s(options, seat)) for seat in seats])
    exits.callback(staff.dismiss)
    producer = Producer(logs / "published", logs / "producer.log", options, env)
    exits.callback(producer.kill)
    return Stage({"store": store, "broker": broker}, staff, producer, witness, clerk, remains)


def _env(
    name: str, folder: Path, options: ChaosOptions, store: Server, broker: Server
) -> dict[str, str]:
    file = folder / "lanes.toml"
    file.write_text(
        CONFIG.format(
            store=store.url,
            name=name,
            cap=options.cap,
            lease_ttl_ms=round(1000 * options.lease_ttl_s),
            intake=options.intake,
        )
    )
    return {
        "CHAOS_NAME": name,
        "CHAOS_BROKER": broker.url,
        "CELERY_LANES_CONFIG": str(file),
    }
