"""A real Redis Cluster on this machine: masters that share the slots, and slots that move."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress

import redis as redis_py
from redis.crc import key_slot

from celery_lanes.testing.embedded import EmbeddedValkey
from celery_lanes.testing.server import free_port
from tests.waiting import until

SLOTS = 16384
DEADLINE_S = 20.0

# A node that is away for as long is failed; the default of 15 s is for networks.
NODE_TIMEOUT_MS = 1000
BUS_OFFSET = 10_000  # of the nodes' own port; before Redis 7 there is no other


class Node(EmbeddedValkey):
    """One master."""

    def __init__(self, *options: str, program: str | None = None) -> None:
        timeout = ("--cluster-node-timeout", str(NODE_TIMEOUT_MS))
        super().__init__("--cluster-enabled", "yes", *timeout, *options, program=program)
        self.port = port_with_bus()
        self.client = redis_py.Redis(port=self.port)

    @property
    def id(self) -> str:
        return self.client.execute_command("CLUSTER", "MYID").decode()

    def view(self, peers: int) -> tuple | None:
        """Say who has which slots, if it knows so many nodes and serves."""
        with suppress(redis_py.RedisError):
            info = self.client.execute_command("CLUSTER", "INFO")
            if b"state:ok" in info and b"known_nodes:%d\r" % peers in info:
                shares = self.tell("SLOTS")
                return tuple(sorted((first, last, home[1]) for first, last, home, *_ in shares))
        return None

    def tell(self, *command) -> object:
        return self.client.execute_command("CLUSTER", *command)


class Cluster:
    """Masters that know each other."""

    def __init__(self, nodes: list[Node]) -> None:
        self.nodes = nodes

    def url(self) -> str:
        return f"redis+cluster://127.0.0.1:{self.nodes[0].port}"

    def form(self) -> None:
        """Share the slots out and wait until every node agrees."""
        for number, node in enumerate(self.nodes):
            node.tell("SET-CONFIG-EPOCH", number + 1)
        for number, node in enumerate(self.nodes):
            share = range(
                number * SLOTS // len(self.nodes), (number + 1) * SLOTS // len(self.nodes)
            )
            node.tell("ADDSLOTS", *share)
        self.introduce()

    def introduce(self) -> None:
        """Let the last node meet the others, and wait until all agree who has what."""
        for other in self.nodes[:-1]:
            self.nodes[-1].tell("MEET", "127.0.0.1", other.port)
        until(self.is_whole)

    @contextmanager
    def joined_by(self, newcomer: Node) -> Iterator[Node]:
        """Run one more node, without slots; it leaves again."""
        with newcomer:
            self.nodes.append(newcomer)
            self.introduce()
            try:
                yield newcomer
            finally:
                self.nodes.remove(newcomer)
                identity = newcomer.id
                newcomer.kill()  # in peace, it might wait for somebody's replication
                for node in self.nodes:
                    node.tell("FORGET", identity)
        until(self.is_whole)

    def joined_as_replica(self, replica: Node, master: Node) -> None:
        """Let one more node follow a master, and wait until it has all."""
        self.nodes.append(replica)
        self.introduce()
        replica.tell("REPLICATE", master.id)
        until(lambda: replica.client.info("replication")["master_link_status"] == "up")

    def is_whole(self) -> bool:
        """Every node knows every other and serves; all agree on the owner of each slot."""
        views = set()
        for node in self.nodes:
            with suppress(redis_py.RedisError):
                info = bytes(node.tell("INFO"))
                fits = b"cluster_state:ok" in info
                fits &= b"cluster_known_nodes:%d\r" % len(self.nodes) in info
                shares = node.tell("SLOTS")
                views.add(
                    repr(sorted((first, last, master[1]) for first, last, master, *_ in shares))
                    if fits
                    else None
                )
                continue
            views.add(None)
        return len(views) == 1 and None not in views

    def owner(self, slot: int) -> Node:
        """Give the node that has a slot, as itself says."""
        for node in self.nodes:
            for first, last, master, *_ in node.tell("SLOTS"):
                if first <= slot <= last and master[1] == node.port:
                    return node
        raise LookupError(slot)

    def move(
        self, slot: int, target: Node, *, half_way: Callable[[], object] = lambda: None
    ) -> None:
        """Move a slot as ``redis-cli --cluster reshard`` does, key by key.

        ``half_way`` is called after each key has gone.
        """
        source = self.owner(slot)
        target.tell("SETSLOT", slot, "IMPORTING", source.id)
        source.tell("SETSLOT", slot, "MIGRATING", target.id)
        half_way()
        while keys := source.tell("GETKEYSINSLOT", slot, 1):
            source.client.execute_command(
                "MIGRATE", "127.0.0.1", target.port, "", 0, 5000, "KEYS", *keys
            )
            half_way()
        for node in sorted(self.nodes, key=lambda node: node is not target):  # the target first
            with suppress(redis_py.ResponseError):  # one without slots becomes a replica by itself
                node.tell("SETSLOT", slot, "NODE", target.id)


@contextmanager
def cluster_of(masters: int, *options: str, program: str | None = None) -> Iterator[Cluster]:
    """Run a cluster."""
    with ExitStack() as running:
        nodes = [running.enter_context(Node(*options, program=program)) for _ in range(masters)]
        cluster = Cluster(nodes)
        cluster.form()
        yield cluster


def slot_of(key: str) -> int:
    """Give the slot of a key."""
    return key_slot(key.encode())


def port_with_bus() -> int:
    """Find a port whose bus port is free too."""
    while True:
        port = free_port() - BUS_OFFSET
        with suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port
