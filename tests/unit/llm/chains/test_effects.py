"""Which error each provider's refusals are, and what that means for a chain and for health.

The bodies are as the providers' documentation and their users' bug reports show them.
"""

from __future__ import annotations

import re
from datetime import datetime, timedelta, timezone
from pathlib import Path

import httpx
import pytest
from billiard.exceptions import SoftTimeLimitExceeded

from celery_lanes import errors
from celery_lanes.llm.chains.effects import _EFFECTS, ChainConfig, Effect, effect_of
from celery_lanes.llm.http.waits import quotas_in
from celery_lanes.llm.messages import Message
from celery_lanes.llm.registry import Registry
from celery_lanes.llm.request import Request
from celery_lanes.store.health import HealthConfig
from celery_lanes.store.quota import Quota, closed_ms, scarcest
from tests.unit.test_errors import every_error

ASK = Request(model="?", messages=(Message(role="user", content="hi"),))

ADVANCE = Effect("advance", "none")
FAIL = Effect("fail", "none")
RETRY = Effect("retry", "count")
LIMITED = Effect("advance", "bench")
BROKE = Effect("advance", "bench_provider")


def openai(message: str, type_: str | None = None, code: str | None = None) -> dict:
    return {"error": {"message": message, "type": type_, "param": None, "code": code}}


def anthropic(type_: str, message: str) -> dict:
    return {"type": "error", "error": {"type": type_, "message": message}, "request_id": "req_1"}


def gemini(code: int, status: str, message: str, *details: dict) -> dict:
    return {"error": {"code": code, "message": message, "status": status, "details": [*details]}}


def quota(name: str) -> dict:
    kind = "type.googleapis.com/google.rpc.QuotaFailure"
    return {"@type": kind, "violations": [{"quotaMetric": "requests", "quotaId": name}]}


RETRY_INFO = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "34s"}
BAD_KEY = {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "API_KEY_INVALID"}

RECORDED = [
    # OpenAI
    (
        "openai",
        429,
        openai("Rate limit reached for gpt-5 on requests", "requests", "rate_limit_exceeded"),
        errors.RateLimited,
        LIMITED,
    ),
    (
        "openai",
        429,
        openai(
            "You exceeded your current quota, please check your plan and billing details.",
            "insufficient_quota",
            "insufficient_quota",
        ),
        errors.QuotaExhausted,
        BROKE,
    ),
    (
        "openai",
        404,
        openai(
            "The model `gpt-9` does not exist or you do not have access to it.",
            "invalid_request_error",
            "model_not_found",
        ),
        errors.ModelNotFound,
        ADVANCE,
    ),
    (
        "openai",
        400,
        openai(
            "This model's maximum context length is 8192 tokens.",
            "invalid_request_error",
            "context_length_exceeded",
        ),
        errors.ContextTooLong,
        FAIL,
    ),
    (
        "openai",
        400,
        openai(
            "Your request was rejected as a result of our safety system.",
            "image_generation_user_error",
            "content_policy_violation",
        ),
        errors.ContentFiltered,
        FAIL,
    ),
    (
        "openai",
        401,
        openai("Incorrect API key provided.", "invalid_request_error", "invalid_api_key"),
        errors.AuthenticationFailed,
        FAIL,
    ),
    (
        "openai",
        400,
        openai("Unknown parameter: 'foo'.", "invalid_request_error", "unknown_parameter"),
        errors.BadRequest,
        FAIL,
    ),
    (
        "openai",
        500,
        openai("The server had an error while processing your request.", "server_error"),
        errors.TransientError,
        RETRY,
    ),
    (
        "openai",
        503,
        openai("The engine is currently overloaded, please try again later."),
        errors.TransientError,
        RETRY,
    ),
    # who speaks as OpenAI does
    ("openai", 402, openai("Insufficient Balance", "unknown_error"), errors.QuotaExhausted, BROKE),
    (
        "openai",
        400,
        {"error": {"message": "x/y is not a valid model ID", "code": 400}},
        errors.ModelNotFound,
        ADVANCE,
    ),
    (
        "openai",
        404,
        {"object": "error", "message": "The model `x` does not exist.", "code": 404},
        errors.ModelNotFound,
        ADVANCE,
    ),
    (
        "openai",
        400,
        {"error": {"message": "the request exceeds the available context size", "code": 400}},
        errors.ContextTooLong,
        FAIL,
    ),
    ("openai", 502, "<html>Bad Gateway</html>", errors.TransientError, RETRY),
    (
        "openai",
        400,
        openai("Invalid prompt: it was flagged as potentially violating our usage policy."),
        errors.ContentFiltered,
        FAIL,
    ),
    # Mistral, DeepSeek, xAI, OpenRouter, Together, Groq
    (
        "openai",
        400,
        {"object": "error", "message": "Invalid model: x", "type": "invalid_model", "code": "1500"},
        errors.ModelNotFound,
        ADVANCE,
    ),
    ("openai", 400, openai("Model Not Exist"), errors.ModelNotFound, ADVANCE),
    (
        "openai",
        403,
        {"error": "Your newly created team doesn't have any credits yet."},
        errors.QuotaExhausted,
        BROKE,
    ),
    (
        "openai",
        400,
        {"error": "This model's maximum prompt length is 131072 but the request contains 5 more."},
        errors.ContextTooLong,
        FAIL,
    ),
    (
        "openai",
        403,
        {"error": "Content violates usage guidelines. Failed check: SAFETY_CHECK_TYPE_BIO"},
        errors.ContentFiltered,
        FAIL,
    ),
    (
        "openai",
        404,
        {"error": {"message": "No endpoints found that support tool use", "code": 404}},
        errors.Unsupported,
        ADVANCE,
    ),
    (
        "openai",
        422,
        openai("`inputs` tokens + `max_new_tokens` must be <= 8193. Given: 9000 `inputs` tokens"),
        errors.ContextTooLong,
        FAIL,
    ),
    (
        "openai",
        400,
        openai("`tools` is not supported with this model", "invalid_request_error"),
        errors.Unsupported,
        ADVANCE,
    ),
    # Anthropic
    (
        "anthropic",
        429,
        anthropic("rate_limit_error", "This request would exceed your organization's rate limit"),
        errors.RateLimited,
        LIMITED,
    ),
    (
        "anthropic",
        529,
        anthropic("overloaded_error", "Overloaded"),
        errors.TransientError,
        RETRY,
    ),
    (
        "anthropic",
        500,
        anthropic("api_error", "Internal server error"),
        errors.TransientError,
        RETRY,
    ),
    (
        "anthropic",
        400,
        anthropic("invalid_request_error", "Your credit balance is too low to access the API."),
        errors.QuotaExhausted,
        BROKE,
    ),
    (
        "anthropic",
        402,
        anthropic("billing_error", "There is an issue with your billing."),
        errors.QuotaExhausted,
        BROKE,
    ),
    (
        "anthropic",
        404,
        anthropic("not_found_error", "model: claude-9"),
        errors.ModelNotFound,
        ADVANCE,
    ),
    (
        "anthropic",
        400,
        anthropic("invalid_request_error", "prompt is too long: 210000 tokens > 200000 maximum"),
        errors.ContextTooLong,
        FAIL,
    ),
    (
        "anthropic",
        413,
        anthropic("request_too_large", "Request exceeds the maximum size"),
        errors.ContextTooLong,
        FAIL,
    ),
    (
        "anthropic",
        400,
        anthropic("invalid_request_error", "Output blocked by content filtering policy"),
        errors.ContentFiltered,
        FAIL,
    ),
    (
        "anthropic",
        401,
        anthropic("authentication_error", "invalid x-api-key"),
        errors.AuthenticationFailed,
        FAIL,
    ),
    (
        "anthropic",
        403,
        anthropic("permission_error", "Your API key does not have permission"),
        errors.AuthenticationFailed,
        FAIL,
    ),
    (
        "anthropic",
        400,
        anthropic("invalid_request_error", "messages: at least one message is required"),
        errors.BadRequest,
        FAIL,
    ),
    (
        "anthropic",
        400,
        anthropic(
            "invalid_request_error",
            "input length and `max_tokens` exceed context limit: 197202 + 21333 > 200000",
        ),
        errors.ContextTooLong,
        FAIL,
    ),
    (
        "anthropic",
        400,
        anthropic("invalid_request_error", "You have reached your specified API usage limits."),
        errors.QuotaExhausted,
        BROKE,
    ),
    # Gemini
    (
        "gemini",
        400,
        gemini(400, "FAILED_PRECONDITION", "User location is not supported for the API use."),
        errors.AuthenticationFailed,
        FAIL,
    ),
    (
        "gemini",
        429,
        gemini(
            429,
            "RESOURCE_EXHAUSTED",
            "You exceeded your current quota",
            quota("GenerateRequestsPerMinutePerProjectPerModel-FreeTier"),
            RETRY_INFO,
        ),
        errors.RateLimited,
        LIMITED,
    ),
    (
        "gemini",
        429,
        gemini(
            429,
            "RESOURCE_EXHAUSTED",
            "You exceeded your current quota",
            quota("GenerateRequestsPerDayPerProjectPerModel-FreeTier"),
            RETRY_INFO,
        ),
        errors.QuotaExhausted,
        BROKE,
    ),
    (
        "gemini",
        429,
        [gemini(429, "RESOURCE_EXHAUSTED", "Resource exhausted. Please try again later.")],
        errors.RateLimited,
        LIMITED,
    ),
    (
        "gemini",
        503,
        gemini(503, "UNAVAILABLE", "The model is overloaded. Please try again later."),
        errors.TransientError,
        RETRY,
    ),
    (
        "gemini",
        504,
        gemini(504, "DEADLINE_EXCEEDED", "The request timed out."),
        errors.TransientError,
        RETRY,
    ),
    (
        "gemini",
        404,
        gemini(404, "NOT_FOUND", "models/gemini-9 is not found for API version v1beta"),
        errors.ModelNotFound,
        ADVANCE,
    ),
    (
        "gemini",
        400,
        gemini(
            400,
            "INVALID_ARGUMENT",
            "The input token count (1100000) exceeds the maximum number of tokens allowed",
        ),
        errors.ContextTooLong,
        FAIL,
    ),
    (
        "gemini",
        400,
        gemini(400, "INVALID_ARGUMENT", "API key not valid. Please pass a valid one.", BAD_KEY),
        errors.AuthenticationFailed,
        FAIL,
    ),
    (
        "gemini",
        403,
        gemini(403, "PERMISSION_DENIED", "Method doesn't allow unregistered callers"),
        errors.AuthenticationFailed,
        FAIL,
    ),
    (
        "gemini",
        400,
        gemini(400, "INVALID_ARGUMENT", "Invalid JSON payload received."),
        errors.BadRequest,
        FAIL,
    ),
    # Ollama, and a foreman
    ("ollama", 404, {"error": "model 'llama9' not found"}, errors.ModelNotFound, ADVANCE),
    (
        "ollama",
        400,
        {"error": '"llama3.2" does not support tools'},
        errors.Unsupported,
        ADVANCE,
    ),
    ("ollama", 401, {"error": "unauthorized"}, errors.AuthenticationFailed, FAIL),
    (
        "ollama",
        429,
        {"error": "too many concurrent requests"},
        errors.RateLimited,
        LIMITED,
    ),
    (
        "ollama",
        503,
        {"error": "server busy, please try again. maximum pending requests exceeded"},
        errors.TransientError,
        RETRY,
    ),
    (
        "ollama",
        500,
        {"error": "model requires more system memory than is available"},
        errors.TransientError,
        RETRY,
    ),
    ("foreman", 401, {"error": "missing bearer token"}, errors.AuthenticationFailed, FAIL),
    ("foreman", 503, {"error": "model is loading"}, errors.TransientError, RETRY),
]


def refused(scheme: str, answer: httpx.Response, *, is_stream: bool = False) -> Exception:
    """Give the error that an answer is raised as."""
    transport = httpx.MockTransport(lambda _: answer)
    (target,) = Registry({"LLM_M1": f"{scheme}://key@h"}, transport=transport).parse("m1/small")
    with pytest.raises(errors.ProviderError) as caught:
        (target.stream if is_stream else target.generate)(ASK)
    return caught.value


@pytest.mark.parametrize("is_stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize(
    ("scheme", "status", "body", "kind", "effect"),
    RECORDED,
    ids=[f"{scheme}-{status}-{kind.__name__}" for scheme, status, _, kind, _ in RECORDED],
)
def test_a_refusal_is_of_its_kind_and_has_its_effect(scheme, status, body, kind, effect, is_stream):
    content = {"text": body} if isinstance(body, str) else {"json": body}

    error = refused(scheme, httpx.Response(status, **content), is_stream=is_stream)

    assert type(error) is kind
    assert error.status == status
    assert effect_of(error) == effect


@pytest.mark.parametrize(
    ("error", "effect"),
    [
        (errors.StreamInterrupted("cut"), Effect("fail", "count")),
        (errors.Unsupported("no pictures"), ADVANCE),
        (errors.LaneBusy("full"), ADVANCE),
        (errors.SpecError("what"), FAIL),
        (errors.ConfigError("no key"), FAIL),
        (errors.StoreUnavailable("away"), FAIL),
        (RuntimeError("a bug in a provider of one's own"), RETRY),
        (ValueError("an answer that is none"), RETRY),
        (ConnectionResetError("cut"), RETRY),
        (TypeError("a bug"), FAIL),
        (KeyError("a bug"), FAIL),
        (NotImplementedError("a bug"), FAIL),
        (errors.ChainExhausted("all benched"), FAIL),
        (errors.Preempted(), Effect("stop", "none")),
        (SoftTimeLimitExceeded(), Effect("stop", "none")),
        (KeyboardInterrupt(), Effect("stop", "none")),
        (GeneratorExit(), Effect("stop", "none")),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_no_refusal_has_its_effect_too(error, effect):
    assert effect_of(error) == effect


def documented() -> list[tuple[str, Effect]]:
    """Read the table of errors in the docs."""
    actions = {"ask the next": "advance", "retry, then ask the next": "retry"}
    healths = {"": "none", "counts": "count", "its provider is benched": "bench_provider"}
    healths["counts for its provider"] = "count_provider"
    table = (Path(__file__).parents[4] / "docs" / "llm.md").read_text().split("## Errors")[1]
    rows = [row.split("|")[1:-1] for row in table.splitlines() if row.startswith("| `")]
    return [
        (
            name,
            Effect(
                actions.get(action.strip(), action.strip().partition(":")[0]),
                healths.get(health.strip(), health.strip().partition("ed at")[0]),
            ),
        )
        for names, _, action, health in rows
        for name in re.findall(r"`(\w+)`", names)
    ]


@pytest.mark.parametrize(("name", "effect"), documented())
def test_the_docs_say_what_an_error_means(name, effect):
    assert effect_of(getattr(errors, name)("x")) == effect


@pytest.mark.parametrize("cls", every_error(), ids=lambda cls: cls.__name__)
def test_every_kind_of_refusal_is_in_the_table(cls):
    if issubclass(cls, errors.ProviderError) and cls is not errors.ProviderError:
        found = next(kind for kind in cls.__mro__ if kind in _EFFECTS)

        assert issubclass(found, errors.ProviderError)


@pytest.mark.parametrize("scheme", ["openai", "anthropic", "gemini", "ollama", "foreman"])
def test_every_provider_says_when_to_come_back_and_which_request_it_was(scheme):
    headers = {"retry-after-ms": "1500", "request-id": "req_7"}

    error = refused(scheme, httpx.Response(429, headers=headers, json={"error": "slow down"}))

    assert (error.retry_after_s, error.request_id) == (1.5, "req_7")


def test_google_says_it_in_the_body():
    body = gemini(429, "RESOURCE_EXHAUSTED", "slow", RETRY_INFO)

    assert refused("gemini", httpx.Response(429, json=body)).retry_after_s == 34.0


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        pytest.param(
            {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "6m0s"},
            360,
            id="openai",
        ),
        pytest.param(
            {
                "x-ratelimit-remaining-requests": "9",
                "x-ratelimit-reset-requests": "1h",
                "x-ratelimit-remaining-tokens": "0",
                "x-ratelimit-reset-tokens": "1m2.5s",
            },
            62.5,
            id="only-what-is-used-up",
        ),
        pytest.param(
            {"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "20ms"},
            0.02,
            id="milliseconds",
        ),
        pytest.param(
            {
                "retry-after": "3",
                "x-ratelimit-remaining-requests": "0",
                "x-ratelimit-reset-requests": "6m0s",
            },
            3,
            id="what-is-asked-for-goes-first",
        ),
    ],
)
def test_limits_that_are_used_up_say_when_they_renew(headers, seconds):
    assert refused("openai", httpx.Response(429, headers=headers)).retry_after_s == seconds


def test_of_two_limits_the_later_one_counts():
    soon, late = (datetime.now(timezone.utc) + timedelta(hours=hours) for hours in (1, 9))
    headers = {
        "anthropic-ratelimit-input-tokens-remaining": "0",
        "anthropic-ratelimit-input-tokens-reset": late.isoformat().replace("+00:00", "Z"),
        "anthropic-ratelimit-requests-remaining": "0",
        "anthropic-ratelimit-requests-reset": soon.isoformat().replace("+00:00", "Z"),
    }

    error = refused("anthropic", httpx.Response(429, headers=headers))

    assert 8 * 3600 < error.retry_after_s <= 9 * 3600


@pytest.mark.parametrize("unit", [1, 1000], ids=["seconds", "milliseconds"])
def test_a_limit_may_renew_at_a_unix_time(unit):
    then = (datetime.now(timezone.utc) + timedelta(hours=9)).timestamp() * unit
    headers = {"x-ratelimit-remaining": "0", "x-ratelimit-reset": str(then)}

    error = refused("openai", httpx.Response(429, headers=headers))

    assert 8 * 3600 < error.retry_after_s <= 9 * 3600


@pytest.mark.parametrize(
    "headers",
    [
        {"x-ratelimit-remaining-requests": "0"},
        {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "soon"},
        {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": ""},
        {"anthropic-ratelimit-requests-remaining": "0", "anthropic-ratelimit-requests-reset": "x"},
        {"x-ratelimit-remaining-requests": "5", "x-ratelimit-reset-requests": "6m0s"},
    ],
    ids=str,
)
def test_limits_that_say_nothing_useful_are_passed_by(headers):
    assert refused("openai", httpx.Response(429, headers=headers)).retry_after_s is None


def test_what_is_left_of_each_limit_is_read_and_nonsense_passed_by():
    soon = (datetime.now(timezone.utc) + timedelta(seconds=9)).isoformat()
    headers = httpx.Headers(
        {
            "X-RateLimit-Remaining-Requests": "12",
            "x-ratelimit-limit-requests": "60",
            "x-ratelimit-reset-requests": "1.2s",
            "x-ratelimit-remaining": "3",
            "x-ratelimit-remaining-tokens": "unlimited",
            "x-ratelimit-remaining-images": "-1",
            "anthropic-ratelimit-input-tokens-remaining": "0",
            "anthropic-ratelimit-input-tokens-reset": soon,
            "anthropic-ratelimit-input-tokens-limit": "1e400",
        }
    )

    requests, bare, tokens = quotas_in(headers)

    assert requests == Quota("requests", 12, 60, 1200)
    assert bare == Quota("requests", 3)
    assert (tokens.name, tokens.left, tokens.of) == ("input-tokens", 0, None)
    assert 5_000 < tokens.resets_ms <= 9_000


@pytest.mark.parametrize(
    ("quotas", "least", "wait_ms"),
    [
        ([Quota("requests", 12, 60), Quota("tokens", 9, 10)], "requests", 0),
        ([Quota("requests", 12, 60, 99), Quota("tokens", 0, 10, 50)], "tokens", 50),
        ([Quota("requests", 0, 60, 99), Quota("input-tokens", 0, 9, 50)], "requests", 99),
        ([Quota("requests", 0)], "requests", 0),
        ([Quota("requests", 5), Quota("tokens", 9, 10)], "tokens", 0),
        ([Quota("images", 0, 9, 50), Quota("tokens", 1, 10)], "images", 0),  # most calls pass
        ([], None, 0),
    ],
    ids=str,
)
def test_the_next_call_would_be_refused_until_what_is_used_up_is_whole(quotas, least, wait_ms):
    assert getattr(scarcest(quotas), "name", None) == least
    assert closed_ms(quotas) == wait_ms


@pytest.mark.parametrize(
    "wrong",
    [
        {"failure_threshold": 0},
        {"base_cooldown_s": 0},
        {"base_cooldown_s": 9, "max_cooldown_s": 8},
        {"multiplier": 0.5},
        {"multiplier": float("inf")},
        {"quota_cooldown_s": 0},
    ],
    ids=str,
)
def test_a_health_that_makes_no_sense_is_refused(wrong):
    with pytest.raises(errors.ConfigError, match="expected failure_threshold"):
        HealthConfig(**wrong)


def test_a_chain_without_retries_is_none_with_fewer():
    assert ChainConfig(transient_retries=0).transient_retries == 0
    with pytest.raises(errors.ConfigError, match="transient_retries to be 0 or more, got -1"):
        ChainConfig(transient_retries=-1)
