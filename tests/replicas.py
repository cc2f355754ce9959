"""A master, its replica and a sentinel that promotes the replica when the master dies."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import redis as redis_py

from celery_lanes.testing.embedded import EmbeddedValkey
from tests.waiting import until

NAME = "lanes"
DOWN_AFTER_MS = 1000  # less may be taken for dead on a busy machine


class Sentinel(EmbeddedValkey):
    """A sentinel process; it rewrites its settings file."""

    def __init__(self, master: EmbeddedValkey, *, program: str | None = None) -> None:
        super().__init__(program=program)
        self._settings = Path(self._folder.name, "sentinel.conf")
        lines = [
            f"sentinel monitor {NAME} 127.0.0.1 {master.port} 1",
            f"sentinel down-after-milliseconds {NAME} {DOWN_AFTER_MS}",
            f"sentinel failover-timeout {NAME} 3000",
        ]
        self._settings.write_text("\n".join(lines) + "\n")

    def _command(self) -> list[str]:
        place = ["--port", str(self.port), "--bind", "127.0.0.1"]
        return [self._program, str(self._settings), "--sentinel", *place]


class Pair:
    """Two servers, one of which is the master, and the sentinel that says which."""

    def __init__(self, master: EmbeddedValkey, replica: EmbeddedValkey, sentinel: Sentinel) -> None:
        self.first = master
        self.second = replica
        self.sentinel = sentinel

    def url(self, db: int = 0) -> str:
        """Give the sentinel's url, after one of a sentinel that is not there."""
        known = f"sentinel://127.0.0.1:1;sentinel://127.0.0.1:{self.sentinel.port}"
        return f"{known}/{db}?master_name={NAME}"

    @property
    def master_port(self) -> int:
        """Ask the sentinel."""
        return int(self._told("get-master-addr-by-name", NAME)[1])

    def fail_over(self) -> None:
        """Let the replica take the master's place in peace, as an operator does."""
        until(self._is_asked_to)

    def _is_asked_to(self) -> bool:
        if self.master_port == self.second.port:
            return True
        try:
            self._told("failover", NAME)
        except redis_py.ResponseError:  # NOGOODSLAVE: it does not know yet how the replica is
            return False
        return True

    def return_first(self) -> None:
        """Start the first server if it is dead; it follows the second from now on.

        Being empty at first, it must not be promoted if the second is slow to answer once.
        """
        self._told("set", NAME, "down-after-milliseconds", "60000")
        self.first.start()
        with redis_py.Redis(port=self.first.port) as first:
            first.replicaof("127.0.0.1", self.second.port)

    def is_whole(self) -> bool:
        """The sentinel knows the replica."""
        return len(self._told("replicas", NAME)) == 1

    def _told(self, *question: str) -> list:
        with redis_py.Redis(port=self.sentinel.port) as sentinel:
            return sentinel.execute_command("SENTINEL", *question)


@contextmanager
def pair_of(*options: str, program: str | None = None) -> Iterator[Pair]:
    """Run them."""
    at_once = ("--repl-diskless-sync-delay", "0", *options)
    with ExitStack() as running:
        master = running.enter_context(EmbeddedValkey(*at_once, program=program))
        follows = ("--replicaof", "127.0.0.1", str(master.port))
        replica = running.enter_context(EmbeddedValkey(*at_once, *follows, program=program))
        until(lambda: _has_a_replica(master))  # seen at its best, or again only after 10 s
        sentinel = running.enter_context(Sentinel(master, program=program))
        pair = Pair(master, replica, sentinel)
        until(pair.is_whole)
        yield pair
        for server in [sentinel, replica, master]:
            server.kill()  # in peace, they would wait for each other


def _has_a_replica(master: EmbeddedValkey) -> bool:
    with redis_py.Redis(port=master.port) as client:
        return bool(client.set("probe", 1) and client.wait(1, 100) == 1)
