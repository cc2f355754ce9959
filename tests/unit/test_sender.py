"""What the sender makes of a publish's options."""

from __future__ import annotations

from datetime import datetime, timezone

import pytest
from kombu import Exchange
from kombu.transport.native_delayed_delivery import calculate_routing_key

from celery_lanes.sender import DELAYED_EXCHANGE, _delayed_to, due_ms, is_served


def test_the_queue_behind_native_delayed_delivery_is_found():
    exchange = Exchange(DELAYED_EXCHANGE, type="topic")
    key = calculate_routing_key(90, "lanes.ollama")

    assert _delayed_to({"exchange": exchange, "routing_key": key}) == "lanes.ollama"
    assert _delayed_to({"exchange": Exchange("other"), "routing_key": key}) is None


@pytest.mark.parametrize(
    ("eta", "ms"),
    [
        (None, 0),
        ("1970-01-01T00:00:01+00:00", 1000),
        ("1970-01-01T00:00:01Z", 1000),
        ("1970-01-01T00:00:01", 1000),
        (datetime(1970, 1, 1, 0, 0, 1, tzinfo=timezone.utc), 1000),
        ("1960-01-01T00:00:00", 0),
        ("tomorrow", 0),
        (7, 0),
    ],
    ids=["none", "offset", "zulu", "naive", "datetime", "past", "words", "number"],
)
def test_an_eta_is_read_in_every_form_and_an_odd_one_is_left_to_celery(eta, ms):
    assert due_ms(eta) == ms
    assert is_served(eta) is (eta is None or ms > 0)
