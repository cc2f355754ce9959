from __future__ import annotations

from datetime import datetime, timedelta, timezone
from email.utils import format_datetime

import httpx
import pytest

from celery_lanes.errors import (
    AuthenticationFailed,
    BadRequest,
    ContentFiltered,
    ContextTooLong,
    ModelNotFound,
    ProviderError,
    QuotaExhausted,
    RateLimited,
    TransientError,
)
from celery_lanes.llm.http.client import MAX_MESSAGE
from celery_lanes.llm.http.waits import retry_after_s


def refusal(status: int, message: str = "no", **error: object) -> httpx.Response:
    return httpx.Response(status, json={"error": {"message": message, **error}})


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (302, TransientError),
        (400, BadRequest),
        (401, AuthenticationFailed),
        (402, QuotaExhausted),
        (403, AuthenticationFailed),
        (404, ModelNotFound),
        (405, BadRequest),
        (408, TransientError),
        (409, TransientError),
        (413, ContextTooLong),
        (418, TransientError),
        (422, BadRequest),
        (429, RateLimited),
        (500, TransientError),
        (502, TransientError),
        (503, TransientError),
        (529, TransientError),
    ],
)
def test_a_status_is_an_error_of_its_kind(ask, status, kind):
    with pytest.raises(ProviderError) as caught:
        ask(refusal(status, "sorry"))

    assert type(caught.value) is kind
    assert caught.value.status == status
    assert str(caught.value) == f"m1/small answered {status}: sorry"


@pytest.mark.parametrize(
    ("status", "error", "kind"),
    [
        (429, {"code": "insufficient_quota"}, QuotaExhausted),
        (429, {"type": "insufficient_quota"}, QuotaExhausted),
        (429, {"code": "rate_limit_exceeded"}, RateLimited),
        (429, {"code": "context_length_exceeded"}, RateLimited),
        (429, {"message": "Too many tokens in the context window"}, RateLimited),
        (429, {"message": "You exceeded your current quota per minute"}, RateLimited),
        (400, {"code": "context_length_exceeded"}, ContextTooLong),
        (400, {"code": "content_filter"}, ContentFiltered),
        (400, {"code": "content_policy_violation"}, ContentFiltered),
        (400, {"code": "model_not_found"}, ModelNotFound),
        (400, {"code": "model_decommissioned"}, ModelNotFound),
        (400, {"message": "Your credit balance is too low"}, QuotaExhausted),
        (400, {"message": "This model's maximum context length is 4096"}, ContextTooLong),
        (400, {"message": "prompt is too long: 9 tokens > 8 maximum"}, ContextTooLong),
        (400, {"message": "Azure's content management policy"}, ContentFiltered),
        (400, {"message": "x is not a valid model ID"}, ModelNotFound),
        (403, {"message": "refused by content policy"}, ContentFiltered),
        (413, {"code": "rate_limit_exceeded"}, ContextTooLong),
        (401, {"message": "insufficient quota"}, AuthenticationFailed),
        (500, {"message": "content policy service is down"}, TransientError),
        (503, {"code": "insufficient_quota"}, TransientError),
        (418, {"code": "rate_limit_exceeded"}, RateLimited),
    ],
)
def test_a_body_refines_what_the_status_leaves_open(ask, status, error, kind):
    with pytest.raises(ProviderError) as caught:
        ask(refusal(status, **error))

    assert type(caught.value) is kind


@pytest.mark.parametrize(
    ("body", "said"),
    [
        pytest.param({"error": "model 'x' is gone"}, "model 'x' is gone", id="a-string"),
        pytest.param({"object": "error", "message": "boo"}, "boo", id="mistral"),
        pytest.param([{"error": {"message": "boo"}}], "boo", id="gemini"),
        pytest.param({"detail": "boo"}, "boo", id="fastapi"),
        pytest.param({"error": {"code": 7}}, '{"code": 7}', id="no-message"),
        pytest.param({"detail": [{"loc": ["a"]}]}, '[{"loc": ["a"]}]', id="a-list"),
    ],
)
def test_the_message_is_found_in_every_shape_of_body(ask, body, said):
    with pytest.raises(BadRequest) as caught:
        ask(httpx.Response(400, json=body))

    assert str(caught.value) == f"m1/small answered 400: {said}"


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"<h1>Bad\n gateway</h1>", "<h1>Bad gateway</h1>"), (b"", "no message"), (b"\xff", "\ufffd")],
    ids=["html", "empty", "binary"],
)
def test_a_body_that_is_no_json_is_quoted(ask, content, said):
    with pytest.raises(TransientError) as caught:
        ask(httpx.Response(502, content=content))

    assert str(caught.value) == f"m1/small answered 502: {said}"


def test_a_long_message_is_cut(ask):
    with pytest.raises(BadRequest) as caught:
        ask(refusal(400, "x" * 10_000))

    assert str(caught.value).count("x") == MAX_MESSAGE


@pytest.mark.parametrize("padding", [0, MAX_MESSAGE - 5], ids=["whole", "across-the-cut"])
def test_an_echoed_key_is_cut_out(ask, padding):
    with pytest.raises(AuthenticationFailed) as caught:
        ask(refusal(401, "." * padding + "sk-very-secret is wrong"))

    assert "***" in str(caught.value)
    assert "sk-" not in repr(caught.value.args)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (httpx.ConnectError("refused"), "cannot be reached at https://llm.test/v1: refused"),
        (httpx.ConnectTimeout("late"), "cannot be reached at https://llm.test/v1: late"),
        (httpx.ReadTimeout("late"), "gave no answer within 5 s"),
        (httpx.WriteTimeout("late"), "gave no answer within 5 s"),
        (httpx.PoolTimeout("late"), "gave no answer within 5 s"),
        (httpx.ReadError("reset"), "broke off: reset"),
        (httpx.WriteError(""), "broke off: WriteError"),
        (httpx.RemoteProtocolError("sk-very-secret"), "broke off: ***"),
        (httpx.ProxyError("no"), "broke off: no"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_a_broken_connection_is_transient(ask, error, said):
    def answer(_):
        raise error

    with pytest.raises(TransientError) as caught:
        ask(answer)

    assert str(caught.value) == f"m1/small {said}"
    assert caught.value.status is None


def test_a_connection_that_outlasts_the_callers_time_is_not_held_against_the_server(ask):
    def answer(_):
        raise httpx.ConnectTimeout("late")

    with pytest.raises(TransientError, match="gave no answer within") as caught:
        ask(answer, timeout_s=1e-9)

    assert type(caught.value) is TransientError


def test_an_answer_that_comes_in_too_slowly_is_transient(ask):
    with pytest.raises(TransientError, match="gave no answer within"):
        ask(httpx.Response(200, json={}), timeout_s=1e-9)


def test_the_key_goes_out_and_is_seen_nowhere_else(ask, completion, caplog):
    seen = []

    def answer(request):
        seen.append(request)
        return httpx.Response(200, json=completion)

    caplog.set_level("DEBUG")
    ask(answer)

    assert seen[0].headers["authorization"] == "Bearer sk-very-secret"
    assert "sk-very-secret" not in caplog.text
    assert "sk-very-secret" not in repr(seen[0].headers)


def test_an_idempotency_key_fits_a_header_whatever_the_task_id(ask, completion):
    seen = []

    def answer(request):
        seen.append(request.headers["idempotency-key"])
        return httpx.Response(200, json=completion)

    ask(answer, idempotency_key="3f2a-77")
    ask(answer, idempotency_key="ü\r\nX: 1")

    assert seen == ["3f2a-77", "%C3%BC%0D%0AX%3A%201"]


@pytest.mark.parametrize("value", [float("nan"), {1, 2}], ids=["nan", "set"])
def test_what_is_no_json_is_a_bad_request(ask, value):
    with pytest.raises(BadRequest, match="cannot be written as JSON"):
        ask(httpx.Response(200), params={"seed": value})


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after-ms": "250"}, 0.25),
        ({"retry-after-ms": "250", "retry-after": "7"}, 0.25),
        ({"retry-after-ms": "soon", "retry-after": "7"}, 7.0),
        ({"retry-after": "0"}, None),
        ({"retry-after": "-1"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "1e999"}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after": ""}, None),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, None),
        ({}, None),
    ],
    ids=str,
)
def test_retry_after_is_read(ask, headers, seconds):
    with pytest.raises(RateLimited) as caught:
        ask(httpx.Response(429, headers=headers))

    assert caught.value.retry_after_s == seconds


@pytest.mark.parametrize("zone", [timezone.utc, None], ids=["gmt", "unknown-zone"])
def test_retry_after_may_be_a_date(zone):
    when = datetime.now(timezone.utc) + timedelta(seconds=90)

    seconds = retry_after_s({"retry-after": format_datetime(when.replace(tzinfo=zone))})

    assert 85 < seconds <= 90
