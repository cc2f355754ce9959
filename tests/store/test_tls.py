"""``rediss://``: a real server that speaks TLS, with certificates made here."""

from __future__ import annotations

import select
import shutil
import subprocess
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import redis as redis_py

from celery_lanes.errors import StoreUnavailable
from celery_lanes.store.connect import open_store
from celery_lanes.testing.embedded import EmbeddedValkey
from celery_lanes.testing.server import free_port
from tests import services
from tests.clusters import cluster_of, port_with_bus
from tests.store.driving import Driver, RealClock

SECRET = "hunter2-swordfish"


@pytest.fixture(scope="module")
def certificates(tmp_path_factory) -> Path:
    """Two certificates for 127.0.0.1 that sign themselves: the server's, and a stranger's."""
    if shutil.which("openssl") is None:
        services.unavailable("openssl is not installed")
    folder = tmp_path_factory.mktemp("certificates")
    for name in ["server", "stranger"]:
        command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
        command += ["-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1"]
        command += ["-keyout", f"{name}.key", "-out", f"{name}.crt"]
        subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return folder


def settings_of(certificates: Path, *options: str) -> tuple[str, ...]:
    own = certificates / "server"
    files = ("--tls-cert-file", f"{own}.crt", "--tls-key-file", f"{own}.key")
    return (*files, "--tls-ca-cert-file", f"{own}.crt", *options)


@contextmanager
def tls_server(certificates: Path, *options: str):
    """Run a server with a plain port too, by which its start is seen."""
    settings = settings_of(certificates, *options)
    server = EmbeddedValkey(*settings, program=services.redis_program())
    with ExitStack() as running:
        try:
            running.enter_context(server)
        except StoreUnavailable:
            services.unavailable("redis-server is built without TLS")
        yield server


@pytest.fixture(scope="module")
def tls_port(certificates):
    """The TLS port of a server that wants a password, and no certificate of its clients."""
    port = free_port()
    options = ("--tls-port", str(port), "--tls-auth-clients", "no")
    with tls_server(certificates, *options) as server:
        redis_py.Redis(port=server.port).config_set("requirepass", SECRET)
        yield port


@pytest.fixture
def url(tls_port, certificates) -> str:
    return f"rediss://:{SECRET}@127.0.0.1:{tls_port}/0?ssl_ca_certs={certificates}/server.crt"


@pytest.fixture
def lane(url, request):
    store = open_store(url, prefix=request.node.name)
    yield Driver(store, RealClock())
    store.disconnect()


def test_verbs_work_over_tls(lane):
    lane.configure(1)
    lane.park(times=2, envelope=b"x" * 100_000)  # several TLS records

    grant = lane.take()
    lane.release(grant)

    assert grant.envelope == b"x" * 100_000
    assert lane.counts == (0, 1, 0, 0)
    assert lane.store.lanes() == [lane.lane]
    assert isinstance(lane.store.warnings(), list)


def test_ear_hears_a_wake_up_over_tls(lane):
    lane.configure()
    ear = lane.store.listen("w1")
    assert lane.turn(worker="w1").grants == ()

    lane.park()

    lane.until(lambda: ear.drain() == {lane.lane})
    ear.close()


def test_ear_leaves_nothing_behind_that_its_descriptor_would_not_tell(lane, url):
    """Many wake-ups come in one TLS record: decrypted, they make no descriptor readable."""
    ear = lane.store.listen("w1")
    names = {f"lane{number}" for number in range(2000)}
    together = redis_py.Redis.from_url(url).pipeline(transaction=True)
    for name in names:
        together.publish(f"{lane.store._keys.channel}w1", name)
    heard: set[str] = set()

    together.execute()
    while heard < names:
        readable, _, _ = select.select([ear], [], [], 2)
        assert readable, f"the descriptor kept silent about {len(names - heard)}"
        heard |= ear.drain()

    assert heard == names
    ear.close()


def test_certificate_of_another_authority_is_store_unavailable_and_says_so(tls_port, certificates):
    url = f"rediss://:{SECRET}@127.0.0.1:{tls_port}/0?ssl_ca_certs={certificates}/stranger.crt"
    store = open_store(url)

    for ask in [store.lanes, lambda: store.listen("w1")]:
        with pytest.raises(StoreUnavailable, match="certificate verify failed") as caught:
            ask()
        assert SECRET not in f"{caught.value!r} {caught.value.__cause__!r} {store!r}"


@pytest.mark.parametrize(
    "place",
    [
        "redis://:{secret}@127.0.0.1:{port}",
        "rediss://:{secret}@localhost:{port}/0?ssl_ca_certs={folder}/server.crt",
        "rediss://:{secret}@127.0.0.1:{port}/0?ssl_ca_certs={folder}/missing.crt",
        "rediss://:{secret}@127.0.0.1:{port}",
    ],
    ids=["no-tls", "another-host-name", "no-such-file", "not-trusted-by-the-system"],
)
def test_connection_that_tls_does_not_allow_is_store_unavailable(place, tls_port, certificates):
    store = open_store(place.format(secret=SECRET, port=tls_port, folder=certificates))

    with pytest.raises(StoreUnavailable) as caught:
        store.lanes()

    assert SECRET not in f"{caught.value!r} {caught.value.__cause__!r}"


def test_url_in_celerys_spelling_may_go_without_verification(tls_port):
    store = open_store(f"rediss://:{SECRET}@127.0.0.1:{tls_port}/3?ssl_cert_reqs=CERT_NONE")

    assert store.lanes() == []


def test_server_that_wants_a_certificate_of_its_clients_gets_the_one_of_the_url(certificates):
    port = free_port()
    trust = f"ssl_ca_certs={certificates}/server.crt"
    own = f"ssl_certfile={certificates}/server.crt&ssl_keyfile={certificates}/server.key"
    with tls_server(certificates, "--tls-port", str(port), "--tls-auth-clients", "yes"):
        store = open_store(f"rediss://127.0.0.1:{port}/0?{trust}&{own}")
        anonymous = open_store(f"rediss://127.0.0.1:{port}/0?{trust}")

        assert store.lanes() == []
        with pytest.raises(StoreUnavailable):
            anonymous.lanes()


def test_cluster_is_spoken_to_over_tls(certificates, tls_port):  # tls_port: skips without TLS
    port = str(port_with_bus())
    ports = ("--tls-port", port, "--tls-cluster", "yes", "--tls-auth-clients", "no")
    settings = settings_of(certificates, *ports)
    with cluster_of(1, *settings, program=services.redis_program()):
        url = f"rediss+cluster://127.0.0.1:{port}?ssl_ca_certs={certificates}/server.crt"
        lane = Driver(open_store(url), RealClock())
        lane.configure()
        ear = lane.store.listen("w1")
        assert lane.turn().grants == ()

        lane.park()

        lane.until(lambda: ear.drain() == {lane.lane})
        assert lane.take().call == "c1"
        assert lane.store.lanes() == [lane.lane]
        ear.close()
