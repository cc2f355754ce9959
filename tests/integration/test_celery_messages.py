"""Rows of the table in ``docs/celery.md`` about messages: queues, stamps, signing, priorities."""

from __future__ import annotations

import time
from datetime import datetime, timedelta, timezone

import pytest
from celery import group
from celery.exceptions import TaskRevokedError
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from kombu.exceptions import ContentDisallowed
from kombu.serialization import registry

from celery_lanes import CallInfo
from tests.integration.conftest import running, until, waiting


def test_a_queue_that_the_publish_names_wins_and_a_lanes_queue_leads_into_the_lane(shop):
    shop.worker("openai", queues=["plain"])
    whose = shop.tasks.whose

    outside = whose.apply_async(("ollama/x",), queue="plain").get(timeout=15)
    inside = whose.apply_async(("ollama/x",), queue=shop.queue("openai")).get(timeout=15)

    assert outside["lane"] == ""
    assert inside["lane"] == "openai"


def test_priorities_order_a_callers_own_calls(make_shop):
    shop = make_shop(rest="[lanes.ollama]\nmax_concurrent = 1")
    mark = shop.tasks.mark
    for priority in (0, 9, 5):
        mark.apply_async(("ollama/x", f"alice {priority}"), caller="alice", priority=priority)
    for priority in (0, 9):
        mark.apply_async(("ollama/x", f"bob {priority}"), caller="bob", priority=priority)

    shop.worker(concurrency=1)
    until(lambda: len(shop.tasks.marked()) == 5)

    assert shop.tasks.marked() == ["alice 9", "bob 9", "alice 5", "bob 0", "alice 0"]


def test_a_body_sees_the_stamps_of_its_call(shop):
    shop.worker()

    calls = group(shop.tasks.stamped.s("ollama/x") for _ in range(2))
    calls.stamp(order="o-17")

    assert calls.delay().get(timeout=15) == ["o-17", "o-17"]


@pytest.mark.parametrize("intake", ["store", "broker"])
def test_revoke_by_stamped_headers_reaches_calls_that_wait_and_a_call_that_runs(make_shop, intake):
    lane = f'[lanes.ollama]\nmax_concurrent = 1\nintake = "{intake}"'
    shop = make_shop(rest=lane)
    worker = shop.worker()
    calls = [shop.tasks.sleep.si("ollama/x", 60) for _ in range(3)]
    for call in calls:
        call.stamp(order="o-17")
    stamped = [call.apply_async(caller="alice") for call in calls]
    other = shop.tasks.echo.delay("ollama/x", 1)
    worker.wait_for_log("begins to sleep")

    shop.tasks.app.control.revoke_by_stamped_headers({"order": ["o-17"]}, terminate=True)

    assert other.get(timeout=15) == 1
    for result in stamped:
        with pytest.raises(TaskRevokedError) as caught:
            result.get(timeout=15)
        assert CallInfo.from_error(caught.value).caller == "alice"
    until(lambda: (running(shop), waiting(shop)) == (0, 0))


@pytest.mark.parametrize("intake", ["store", "broker"])
def test_signed_messages_keep_their_signature_on_the_way_through_the_lane(
    make_shop, tmp_path, monkeypatch, intake
):
    disabled = set(registry._disabled_content_types)  # setup_security is for the whole process
    monkeypatch.setattr(registry, "_disabled_content_types", disabled)
    write_certificate(tmp_path, name="ours")
    shop = make_shop(defaults=f'intake = "{intake}"\nmax_leases = 2')
    shop.conf = {
        "security_key": str(tmp_path / "ours.key"),
        "security_certificate": str(tmp_path / "ours.pem"),
        "security_cert_store": str(tmp_path / "*.pem"),
        "task_serializer": "auth",
        "event_serializer": "auth",
        "accept_content": ["auth"],
        "result_accept_content": ["json"],
    }
    shop.worker(pool="threads")

    seen = shop.tasks.whose.apply_async(("ollama/x",), caller="alice").get(timeout=15)
    unsigned = shop.tasks.whose.apply_async(("ollama/x",), caller="eve", serializer="json")

    assert (seen["caller"], seen["lane"]) == ("alice", "ollama")
    with pytest.raises(ContentDisallowed) as caught:
        unsigned.get(timeout=20)
    assert CallInfo.from_error(caught.value).caller == "eve"


def test_a_serializer_that_no_worker_accepts_makes_a_dead_letter_and_a_failure(make_shop):
    shop = make_shop(defaults="max_leases = 2")
    shop.worker()

    result = shop.tasks.whose.apply_async(("ollama/x",), caller="eve", serializer="pickle")

    with pytest.raises(ContentDisallowed) as caught:
        result.get(timeout=20)
    assert CallInfo.from_error(caught.value).caller == "eve"
    until(lambda: shop.tasks.lanes.parts.store.snapshot("ollama").dead == 1)
    assert shop.tasks.echo.delay("ollama/x", 1).get(timeout=10) == 1


def test_pydantic_tasks_take_and_give_models(shop):
    shop.worker()

    result = shop.tasks.ordered.delay("ollama/x", {"item": "tea"})

    assert result.get(timeout=15) == {"item": "tea", "count": 2}


@pytest.mark.rabbitmq
@pytest.mark.parametrize("intake", ["store", "broker"])
def test_native_delayed_delivery_on_quorum_queues_leads_into_the_lane(make_shop, intake):
    shop = make_shop("rabbitmq", defaults=f'intake = "{intake}"')
    quorum = {"x-queue-type": "quorum"}
    names = (shop.queue("ollama"), shop.queue("plain"))
    shop.conf = {
        "task_queues": {
            name: {"exchange": name, "exchange_type": "topic", "routing_key": name,
                   "queue_arguments": quorum}
            for name in names
        },
        "task_default_queue": names[1],
    }  # fmt: skip
    shop.worker(queues=[names[1]])
    began_s, eta = time.monotonic(), datetime.now(timezone.utc) + timedelta(seconds=2)

    call = shop.tasks.whose.apply_async(("ollama/x",), eta=eta, caller="alice")
    plain = shop.tasks.plain.apply_async(countdown=2)

    is_in_store = shop.tasks.lanes.parts.store.snapshot("ollama").delayed == 1
    assert is_in_store == (intake == "store")  # else it is on its way through 28 exchanges
    seen = call.get(timeout=20)
    assert (seen["caller"], seen["lane"]) == ("alice", "ollama")
    assert time.monotonic() - began_s > 1.9
    assert plain.get(timeout=20) == "plain"


def write_certificate(folder, *, name):
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.now(timezone.utc)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    (folder / f"{name}.key").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.TraditionalOpenSSL,
            serialization.NoEncryption(),
        )
    )
    pem = certificate.public_bytes(serialization.Encoding.PEM)
    (folder / f"{name}.pem").write_bytes(pem)
