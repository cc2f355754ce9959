import asyncio
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import FrozenInstanceError
from types import SimpleNamespace

import pytest

from celery_lanes.callinfo import HEADER, CallInfo, call_context, current_call

INFO = CallInfo(
    caller="alice",
    run_id="run-17",
    model="ollama/llama3.1:8b",
    lane="ollama",
    attempt=2,
    priority=-3,
    cost=12.5,
    nonce="0af3",
    wait_s=0.25,
)


def test_a_header_survives_json():
    header = json.loads(json.dumps(INFO.to_header()))

    assert CallInfo.from_header(header) == INFO


def test_a_header_leaves_out_what_is_not_known():
    assert CallInfo(caller="alice").to_header() == {"caller": "alice"}


@pytest.mark.parametrize(
    "header",
    [
        pytest.param(None, id="none"),
        pytest.param("alice", id="text"),
        pytest.param([1], id="list"),
        pytest.param({"colour": "red"}, id="unknown-key"),
        pytest.param({"caller": 7, "cost": "1"}, id="wrong-types"),
        pytest.param({1: 2}, id="odd-key"),
    ],
)
def test_a_foreign_header_is_ignored(header):
    assert CallInfo.from_header(header) == CallInfo()


def test_what_is_right_in_a_half_wrong_header_counts():
    info = CallInfo.from_header({"caller": "alice", "attempt": "two", "cost": 3})

    assert info == CallInfo(caller="alice", cost=3)


def test_an_info_cannot_be_changed():
    with pytest.raises(FrozenInstanceError):
        INFO.caller = "mallory"


@pytest.mark.parametrize(
    "request_",
    [
        pytest.param(SimpleNamespace(**{HEADER: INFO.to_header()}), id="attribute"),
        pytest.param(SimpleNamespace(headers={HEADER: INFO.to_header()}), id="headers"),
    ],
)
def test_a_request_says_whose_it_is(request_):
    assert CallInfo.from_request(request_) == INFO


@pytest.mark.parametrize(
    "request_",
    [
        pytest.param(SimpleNamespace(), id="bare"),
        pytest.param(SimpleNamespace(headers=None), id="no-headers"),
        pytest.param(SimpleNamespace(headers={HEADER: "x"}), id="foreign"),
    ],
)
def test_a_request_without_attribution_has_none(request_):
    assert CallInfo.from_request(request_) is None


def test_an_error_says_whose_it_is_and_stays_what_it_was():
    error = KeyError("model")

    INFO.attach_to(error)

    assert CallInfo.from_error(error) == INFO
    assert (type(error), error.args) == (KeyError, ("model",))


@pytest.mark.parametrize("link", ["__cause__", "__context__"])
def test_an_error_raised_from_another_says_whose_that_was(link):
    inner, outer = ValueError("inner"), RuntimeError("outer")
    INFO.attach_to(inner)

    setattr(outer, link, inner)

    assert CallInfo.from_error(outer) == INFO


def test_errors_that_cause_each_other_end():
    one, other = ValueError("one"), ValueError("other")

    one.__cause__, other.__cause__ = other, one

    assert CallInfo.from_error(one) is None


def test_no_error_is_nobodys():
    assert CallInfo.from_error(None) is None


def test_a_context_ends_with_its_block():
    with call_context(caller="alice", run_id="run-17"):
        inside = current_call()

    assert inside == CallInfo(caller="alice", run_id="run-17")
    assert current_call() is None


def test_a_context_ends_with_an_error_too():
    with pytest.raises(ValueError, match="oh"), call_context(caller="alice"):
        raise ValueError("oh")

    assert current_call() is None


def test_an_inner_context_inherits_what_it_leaves_out():
    with call_context(caller="alice", run_id="run-17"), call_context(run_id="run-18") as inner:
        assert inner == CallInfo(caller="alice", run_id="run-18")


def test_an_inner_context_can_be_nobodys():
    with call_context(caller="alice"), call_context(caller="") as inner:
        assert inner.caller == ""


def test_a_context_stays_in_its_thread():
    with call_context(caller="alice"), ThreadPoolExecutor(1) as pool:
        assert pool.submit(current_call).result() is None


def test_contexts_of_two_coroutines_do_not_mix():
    async def caller_of(name: str) -> str:
        with call_context(caller=name):
            await asyncio.sleep(0)
            return current_call().caller

    async def both() -> list[str]:
        return await asyncio.gather(caller_of("alice"), caller_of("bob"))

    assert asyncio.run(both()) == ["alice", "bob"]


def test_a_context_refuses_a_priority_that_is_none():
    with (
        pytest.raises(ValueError, match="expected priority to be a whole number from -1000 to"),
        call_context(priority=1001),
    ):
        pass

    assert current_call() is None


def test_a_priority_of_0_is_said_and_none_is_not():
    assert CallInfo(priority=0).to_header() == {"priority": 0}
    assert CallInfo().to_header() == {}
