from __future__ import annotations

import json
import pickle
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from unittest.mock import ANY

import httpx
import pytest
from celery import Celery
from celery.app.task import Context
from celery.exceptions import Reject

from celery_lanes import Lanes as RealLanes
from celery_lanes import errors, tasks
from celery_lanes.callinfo import HEADER, CallInfo
from celery_lanes.config.settings import Settings
from celery_lanes.journeys.journey import checked_stage
from celery_lanes.journeys.leg import left_s, leg_of
from celery_lanes.llm.chains.effects import ChainConfig
from celery_lanes.llm.chains.journey import Journey
from celery_lanes.llm.ledger import Attempt
from celery_lanes.llm.providers.fake import FakeProvider
from celery_lanes.llm.registry import Registry
from celery_lanes.llm.reply import Reply
from celery_lanes.store.calls import Busy


class Lanes:
    """Keeps what it is told."""

    def __init__(self):
        self.settings = Settings.parse({"lanes": {"m1": {"adaptive": True}}})
        self.parts = SimpleNamespace(settings=self.settings, task={}.get)  # no task of its own
        self.settled = []
        self.overloads = []
        self.moves = []
        self.returns = []
        self.given_stage = None
        self.waits = {}

    def leg(self, request):
        return leg_of(self, request)

    def stage(self, request):
        return self.given_stage

    def move(self, request, lane, stage, *, model):
        self.moves.append((lane, model, stage))
        raise Reject

    def foresee(self, request, lane):
        return self.waits.get(lane)

    def give_back(self, request, stage, delay=None):
        self.returns.append((delay, stage))
        raise Reject

    @property
    def registry(self):
        return tasks.registry

    def overloaded(self, request, *, retry_after):
        self.overloads.append((request.id, retry_after))

    def settle(self, request, cost):
        self.settled.append((request.id, cost))


@pytest.fixture
def generate(monkeypatch, completion):
    """The task in an app of its own; ``generate.sent`` is what went out."""
    sent, answers = [], []

    def answer(request):
        sent.append(request)
        return answers.pop() if answers else httpx.Response(200, json=completion)

    registry = Registry(
        {"LLM_M1": "openai://k@llm.test/v1"},
        lane_of=lambda model: model.partition("/")[0],
        chain=ChainConfig(backoff_s=0),
        transport=httpx.MockTransport(answer),
    )
    monkeypatch.setattr(tasks, "registry", registry)
    with Celery("shop", broker="memory://", backend="cache+memory://", set_as_current=False) as app:
        app.lanes = Lanes()
        task = app.tasks["celery_lanes.generate"]
        task.sent, task.answers = sent, answers
        yield task


def test_a_prompt_becomes_a_result(generate):
    result = generate.apply(("m1/small", "hi"), task_id="t1").get()

    run_s = result.pop("run_s")
    assert run_s >= 0
    assert result == {
        "text": "hello",
        "tool_calls": [],
        "reasoning": [],
        "usage": {
            "input_tokens": 7,
            "output_tokens": 3,
            "cached_tokens": 0,
            "reasoning_tokens": 0,
            "is_estimated": False,
        },
        "model": "small-2026",
        "finish_reason": "stop",
        "request_id": None,
        "attempts": [
            {
                "target": "m1/small",
                "lane": "m1",
                "error_class": None,
                "reason": None,
                "status": None,
                "retry_after_s": None,
                "request_id": None,
                "queued_s": 0,
                "waited_s": 0,
                "ran_s": ANY,
                "tokens": 10,
                "possibly_billed": True,
                "left_out": 0,
            }
        ],
        "lane": None,
        "wait_s": None,
    }
    assert json.loads(generate.sent[0].content)["messages"] == [{"role": "user", "content": "hi"}]
    assert generate.sent[0].headers["idempotency-key"] == "t1-16ebb98f8b91f15b"


def test_a_lane_call_says_its_lane_and_wait(generate):
    header = {"lane": "m1", "wait_s": 1.5, "nonce": "n1"}

    result = generate.apply(("m1/small", "hi"), headers={HEADER: header}).get()

    assert (result["lane"], result["wait_s"]) == ("m1", 1.5)
    assert generate.sent[0].headers["idempotency-key"] == "n1-16ebb98f8b91f15b"


def test_the_real_cost_is_settled(generate):
    generate.apply(("m1/small", "hi"), task_id="t1")

    assert generate.app.lanes.settled == [("t1", 7 + 2 * 3)]


def test_an_app_with_lanes_asks_their_health():
    with Celery("shop", broker="memory://", set_as_current=False) as app:
        lanes = RealLanes(app, Settings.parse({"store": {"url": "memory://"}}))

    assert lanes.registry.health is lanes.health


def test_threads_that_come_first_together_share_one_registry_and_its_health():
    together = threading.Barrier(2)

    def make(**options):
        together.wait(60)
        return Registry(**options)

    with Celery("shop", broker="memory://", set_as_current=False) as app:
        lanes = RealLanes(app, Settings.parse({"store": {"url": "memory://"}}), registry=make)
        with ThreadPoolExecutor(2) as pool:
            one, other = pool.map(lambda _: lanes.registry, range(2))

    assert one is other is lanes.registry
    assert one.health is lanes.health


def test_aliases_of_the_settings_are_the_registrys():
    with Celery("shop", broker="memory://", set_as_current=False) as app:
        lanes = RealLanes(app, Settings.parse({"aliases": {"quick": "fake/x"}}))

    assert str(lanes.registry.parse("quick")[0]) == "fake/x"


def test_a_direct_call_is_warned_of_once_for_no_cap_holds_it(generate, caplog):
    tasks._say_it_is_outside.cache_clear()
    generate.apply(("m1/small", "hi")).get()
    assert caplog.messages == []

    for _ in range(2):
        assert generate("m1/small", "hi")["text"]

    (line,) = caplog.messages
    assert "in no lane" in line
    assert "generate.delay(...)" in line


def test_an_app_without_lanes_generates_as_well(generate):
    del generate.app.lanes

    assert generate.apply(("m1/small", "hi")).get()["text"] == "hello"


def in_lane(task, model, lane="m1", **header):
    """Run the task's body as a worker does that has been granted the call."""
    header = {"lane": lane, "nonce": "n1", "token": "k1", **header}
    task.request_stack.push(Context(id="t1", task=task.name, **{HEADER: header}))
    try:
        return task.run(model, "hi")
    finally:
        task.request_stack.pop()


@pytest.mark.parametrize(
    ("status", "overloads"),
    [(529, [("t1", 7)]), (500, []), (400, [])],
    ids=str,
)
def test_a_provider_that_is_busy_is_reported_to_its_lane(generate, status, overloads):
    answer = httpx.Response(status, json={}, headers={"Retry-After": "7"})
    generate.answers.extend([answer, answer])

    with pytest.raises((Reject, errors.ProviderError)):
        in_lane(generate, "m1/small")

    assert generate.app.lanes.overloads[:1] == overloads  # then it waits, and says so again


def test_a_lane_whose_provider_asks_for_time_gives_it_and_the_call_waits_at_its_place(generate):
    generate.answers.append(httpx.Response(429, json={}, headers={"Retry-After": "7"}))

    with pytest.raises(Reject):
        in_lane(generate, "m1/small", wait_s=1.5)

    lanes = generate.app.lanes
    ((delay, stage),) = lanes.returns
    assert (delay, lanes.moves) == (None, [])
    assert lanes.overloads[-1] == ("t1", pytest.approx(7, abs=0.5))
    assert (stage["waits"], stage["call_id"], stage["to_come"]) == (1, "n1", ["m1/small"])
    assert stage["ledger"][0]["error_class"] == "RateLimited"
    assert (stage["ledger"][0]["lane"], stage["ledger"][0]["queued_s"]) == ("m1", 1.5)


def test_the_next_model_is_asked_in_its_own_lane_with_all_that_came_before(generate):
    registry, lanes = tasks.registry, generate.app.lanes
    registry.register_provider(FakeProvider("x", errors.ModelNotFound("who?", 404)))

    with pytest.raises(Reject):
        in_lane(generate, "x/1,m1/small", "x")
    ((lane, model, stage),) = lanes.moves
    lanes.given_stage = json.loads(json.dumps(stage))
    result = in_lane(generate, "x/1,m1/small", nonce="n2", origin="n1", wait_s=2.0)

    assert (lane, model) == ("m1", "m1/small")
    assert [(a["target"], a["lane"], a["error_class"]) for a in result["attempts"]] == [
        ("x/1", "x", "ModelNotFound"),
        ("m1/small", "m1", None),
    ]
    assert result["attempts"][1]["queued_s"] == 2
    assert generate.sent[0].headers["idempotency-key"] == "n1-16ebb98f8b91f15b"


def test_a_call_that_may_not_wait_passes_by_a_lane_with_too_long_a_line(generate):
    registry, lanes = tasks.registry, generate.app.lanes
    registry.register_provider(FakeProvider("x", errors.ModelNotFound("who?", 404)))
    registry.register_provider(FakeProvider("y"))
    lanes.waits = {"y": Busy(9, 5001), "m1": Busy(1, 5000)}
    lanes.given_stage = Journey(
        call_id="n1", to_come=("x/1", "y/2", "m1/small"), retries_left=3, max_wait_s=5
    ).model_dump(mode="json")

    with pytest.raises(Reject):
        in_lane(generate, "x/1,y/2,m1/small", "x")

    ((lane, _, stage),) = lanes.moves
    assert (lane, stage["to_come"], stage["max_wait_s"]) == ("m1", ["m1/small"], 5)
    assert [a["error_class"] for a in stage["ledger"]] == ["ModelNotFound", "LaneBusy"]


def test_a_call_with_a_long_story_moves_all_the_same(generate):
    tasks.registry.register_provider(FakeProvider("x", errors.ModelNotFound("who?", 404)))
    told = Attempt(target="m1/small", error_class="RateLimited", reason="\U0001f600" * 200)
    generate.app.lanes.given_stage = Journey(
        call_id="n1", to_come=("x/1", "m1/small"), retries_left=3, ledger=(told,) * 30
    ).model_dump(mode="json")

    with pytest.raises(Reject):
        in_lane(generate, "x/1,m1/small", "x")

    ((_, _, stage),) = generate.app.lanes.moves
    assert checked_stage(stage) == stage
    assert stage["ledger"][-1]["error_class"] == "ModelNotFound"
    assert stage["ledger"][0]["left_out"] == 31 - len(stage["ledger"])


def test_a_stage_that_is_no_chains_is_passed_by(generate):
    generate.app.lanes.given_stage = {"page": 3}

    assert in_lane(generate, "m1/small")["text"] == "hello"


def test_a_refusal_without_lanes_is_the_providers_error(generate):
    del generate.app.lanes
    generate.answers.append(httpx.Response(429, json={}))

    with pytest.raises(errors.RateLimited):
        generate.apply(("m1/small", "hi")).get()


def test_messages_and_parameters_are_sent(generate):
    messages = [{"role": "system", "content": "be kind"}, {"role": "user", "content": "hi"}]

    generate.apply(("m1/small", messages), {"max_tokens": 5, "temperature": 0.5, "seed": 3})

    sent = json.loads(generate.sent[0].content)
    assert sent["messages"] == messages
    assert (sent["max_tokens"], sent["temperature"], sent["seed"]) == (5, 0.5, 3)


def test_tools_and_a_schema_are_asked_for_as_json(generate):
    options = {
        "tools": [{"name": "look"}],
        "tool_choice": {"name": "look"},
        "schema": {"type": "object"},
        "effort": "low",
        "user": "u1",
    }

    generate.apply(("m1/small", "hi"), json.loads(json.dumps(options)))

    sent = json.loads(generate.sent[0].content)
    assert sent["tools"][0]["function"]["name"] == "look"
    assert sent["tool_choice"]["function"] == {"name": "look"}
    assert sent["response_format"]["json_schema"]["schema"] == {"type": "object"}
    assert (sent["reasoning_effort"], sent["user"]) == ("low", "u1")


def test_an_alias_is_a_model(generate):
    tasks.registry.register_alias("quick", "m1/small")

    assert generate.apply(("quick", "hi")).get()["text"] == "hello"


def test_several_models_are_asked_in_turn(generate):
    tasks.registry.provider("fake").script(errors.RateLimited("slow", 429, 60.0))

    first, second = (generate.apply(("fake/x,m1/small", "hi")).get() for _ in range(2))

    assert [(a["target"], a["error_class"]) for a in first["attempts"]] == [
        ("fake/x", "RateLimited"),
        ("m1/small", None),
    ]
    assert second["attempts"][0]["error_class"] == "Benched"


def test_when_nobody_answers_the_error_has_reasons_and_whose_call_it_was(generate):
    for name in ("x", "y"):
        error = errors.RateLimited("slow", 429, 60.0)
        tasks.registry.register_provider(FakeProvider(name, error))
    header = {"caller": "ann", "lane": "x", "nonce": "n1"}

    result = generate.apply(("x/1,y/2", "hi"), headers={HEADER: header})

    assert isinstance(result.result, errors.ChainExhausted)
    assert [a["target"] for a in result.result.attempts] == ["x/1", "y/2"]
    assert CallInfo.from_error(result.result).caller == "ann"
    assert generate.app.lanes.settled == []


def test_a_call_that_finds_all_benched_comes_again_by_itself(generate):
    for name in ("x", "y"):
        error = errors.RateLimited("slow", 429, 60.0)
        tasks.registry.register_provider(FakeProvider(name, error))
    generate.apply(("x/1,y/2", "hi"))

    with pytest.raises(Reject):
        in_lane(generate, "x/1,y/2", "x")

    ((delay, stage),) = generate.app.lanes.returns
    assert 59 < delay <= 120
    assert stage["to_come"] == ["x/1", "y/2"]
    assert generate.app.lanes.overloads == []


def test_a_conversation_goes_on_with_what_the_result_holds(generate):
    asked = [{"role": "user", "content": "hi"}]
    result = json.loads(json.dumps(generate.apply(("m1/small", asked)).get()))
    turn = Reply.model_validate(result).as_message().model_dump(mode="json")

    generate.apply(("m1/small", [*asked, turn, {"role": "user", "content": "and?"}]))

    sent = json.loads(generate.sent[1].content)["messages"]
    assert sent[1] == {"role": "assistant", "content": "hello"}


@pytest.mark.parametrize("status", [200, 401, 500])
def test_the_key_is_in_no_result_error_or_log(generate, monkeypatch, caplog, status, completion):
    caplog.set_level("DEBUG")
    body = completion if status == 200 else {"error": {"message": "your key is sk-secret"}}
    transport = httpx.MockTransport(lambda _: httpx.Response(status, json=body))
    env = {"LLM_M1": "openai://sk-secret@llm.test/v1"}
    monkeypatch.setattr(tasks, "registry", Registry(env, transport=transport))

    result = generate.apply(("m1/small", "hi"))

    stored = generate.app.backend.prepare_exception(result.result, "json") if status > 200 else {}
    shown = json.dumps(stored) + repr(result.result) + str(result.traceback) + caplog.text
    assert "sk-secret" not in shown
    assert b"sk-secret" not in pickle.dumps(result.result)


def test_no_refusal_of_an_argument_quotes_the_prompt(generate):
    with pytest.raises(errors.BadRequest) as caught:
        generate.apply(("m1/small", [{"role": "usr", "content": "hunter2"}])).get()

    assert "hunter2" not in repr(caught.value.args)


@pytest.mark.parametrize(
    ("prompt", "options", "said"),
    [
        (7, {}, "expected prompt to be a text or a list .* got int"),
        (None, {}, "got NoneType"),
        ([], {}, "got an empty list"),
        (["hi"], {}, "each message"),
        ([{"role": "user"}], {}, "each message"),
        ([{"role": "user", "content": None}], {}, "each message"),
        ([{"role": "user", "content": "x", "name": "y"}], {}, "each message"),
        ("hi", {"max_tokens": 0}, "max_tokens"),
        ("hi", {"max_tokens": "9"}, "max_tokens"),
        ("hi", {"effort": "extreme"}, "effort"),
        ("hi", {"tools": [{"nme": "look"}]}, "tools"),
        ("hi", {"schema": "object"}, "expected schema to be a JSON schema, got str"),
        ("hi", {"timeout_s": 0}, "timeout_s"),
        ("hi", {"timeout_s": "9"}, "timeout_s"),
        ("hi", {"timeout_s": True}, "timeout_s"),
        ("hi", {"attempt_timeout_s": 0}, "attempt_timeout_s"),
        ("hi", {"max_token": 9}, "no option 'max_token'; did you mean max_tokens"),
        ("hi", {"timeout": 9}, "did you mean timeout_s"),
        (
            "hi",
            {"caller": "ann"},
            r"caller is an option of the call.*apply_async\(.*, caller=\.\.\.",
        ),
        ("hi", {"max_wait": 3, "lane": "gpu"}, "lane and max_wait are options of the call"),
        (
            "hi",
            {"caller": "", "max_wait": 3, "lane": "gpu"},
            "caller, lane and max_wait are options",
        ),
        ("hi", {"countdown": 5}, "countdown is an option of the call"),
    ],
)
def test_a_wrong_argument_is_refused_before_anything_is_sent(generate, prompt, options, said):
    result = generate.apply(("m1/small", prompt), options)

    with pytest.raises(errors.BadRequest, match=said):
        result.get()
    assert generate.sent == []


def test_a_misplaced_option_is_refused_before_anything_is_published(generate):
    with Celery("shop", broker="memory://", set_as_current=False) as app:
        lanes = RealLanes(app, Settings.parse({"store": {"url": "memory://misplaced"}}))
        task = app.tasks["celery_lanes.generate"]
        for options in ({"caller": "ann"}, {"max_token": 9}):
            with pytest.raises(errors.BadRequest):
                task.delay("m1/small", "hi", **options)
            with pytest.raises(errors.BadRequest):
                task.s("m1/small", "hi", **options).apply_async()
        assert lanes.parts.store.lanes() == []

        task.s("m1/small", "hi", caller="ann").apply_async(parent_id="a canvas goes on in a worker")
        assert lanes.parts.store.snapshot("m1").waiting == 1


def test_what_a_provider_knows_and_nobody_else_is_sent_to_it(generate):
    generate.apply(("m1/small", "hi"), {"top_a": 1, "min_tokens": 2, "priority": 3}).get()

    body = json.loads(generate.sent[0].content)
    assert (body["top_a"], body["min_tokens"], body["priority"]) == (1, 2, 3)


@pytest.mark.parametrize("wrong", [("m1/small", 7), ("nobody/small", "hi")], ids=["prompt", "name"])
def test_a_mistake_of_the_caller_is_one_line_in_the_workers_log(generate, caplog, wrong):
    caplog.set_level("INFO", "celery.app.trace")

    error = generate.apply(wrong).result

    (line,) = [record for record in caplog.records if record.name == "celery.app.trace"]
    assert (line.levelname, line.exc_info) == ("INFO", None)
    assert line.getMessage().endswith(f"raised expected: {type(error).__name__}({str(error)!r})")


@pytest.mark.parametrize("model", ["", "gpt-5-mini", "m1/", None])
def test_a_wrong_model_is_refused(generate, model):
    with pytest.raises(errors.BadRequest, match='"provider/model"'):
        generate.apply((model, "hi")).get()


@pytest.mark.parametrize(
    ("limits", "tasks_own", "seconds"),
    [
        pytest.param([90, 60], None, 59.0, id="soft-limit"),
        pytest.param([90, 1], None, 0.5, id="short-soft-limit"),
        pytest.param([None, None], 20, 19.0, id="the-tasks-own"),
        pytest.param([None, None], None, None, id="none"),
        pytest.param(None, None, None, id="no-limits"),
    ],
)
def test_the_provider_must_answer_before_the_soft_limit(limits, tasks_own, seconds):
    assert left_s(SimpleNamespace(timelimit=limits), tasks_own) == seconds


def test_the_task_is_what_a_lane_needs(generate):
    assert generate.acks_late
    assert generate.reject_on_worker_lost
    assert generate.model_arg == "model"


def test_the_task_estimates_its_cost(generate):
    assert generate.estimate_cost("m1/small", "abcd", max_tokens=10, seed=3) == 1 + 2 * 10
    assert generate.estimate_cost("m1/small", [{"role": "user", "content": "abcd"}]) == 1 + 2048


@pytest.mark.parametrize(
    "error",
    [
        errors.RateLimited("slow", 429, 7.5),
        errors.TransientError("late"),
        errors.QuotaExhausted("empty", 402),
        errors.ChainExhausted("all benched", None, 5.0),
        errors.ModelNotFound("who", 404),
        errors.AuthenticationFailed("no", 401),
        errors.BadRequest("what"),
        errors.ContextTooLong("long", 400),
        errors.ContentFiltered("no", 400),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_survives_a_json_result_backend(generate, error):
    backend = generate.app.backend

    stored = json.loads(json.dumps(backend.prepare_exception(error, "json")))
    rebuilt = backend.exception_to_python(stored)

    assert type(rebuilt) is type(error)
    assert str(rebuilt) == str(error)
    assert (rebuilt.status, rebuilt.retry_after_s) == (error.status, error.retry_after_s)


def test_importing_the_task_does_not_import_httpx():
    code = "import sys, celery_lanes.tasks; sys.exit('httpx' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("terms", "said"),
    [({"first_token_s": 0}, "first_token_s"), ({"idle_s": "soon"}, "idle_s")],
    ids=["first_token_s", "idle_s"],
)
def test_a_streams_time_outs_are_checked(generate, terms, said):
    with pytest.raises(errors.BadRequest, match=f"expected {said} to be a positive number"):
        generate.apply(("m1/small", "hi"), {"stream": True, **terms}, throw=True)

    assert generate.sent == []


def test_a_stream_needs_lanes(generate):
    generate.app.lanes = None

    with pytest.raises(errors.ConfigError, match=r"an app with Lanes\(app\) for stream=True"):
        generate.apply(("m1/small", "hi"), {"stream": True}, throw=True)

    assert generate.sent == []
