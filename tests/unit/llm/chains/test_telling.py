"""What is known of a call afterwards: its error, its ledger, its events, its key."""

from __future__ import annotations

import json
import pickle

import pytest
from billiard.exceptions import SoftTimeLimitExceeded
from celery import Celery

from celery_lanes import errors
from celery_lanes.callinfo import CallInfo, call_context
from celery_lanes.llm.capabilities import Capabilities
from celery_lanes.llm.chains.logbook import log
from celery_lanes.llm.providers.fake import FakeProvider
from tests.unit.llm.chains.rig import ASK, DOWN, INFO


@pytest.mark.parametrize("path", ["fail", "exhausted", "benched", "lone", "stream"])
def test_every_error_says_whose_call_it_was(chains, path):
    if path == "fail":
        chains.a.script(errors.BadRequest("what"))
    else:
        for provider in (chains.a, chains.b, chains.c):
            provider.script(*[errors.RateLimited("slow", 429, 60.0)] * 3)
    spec = "a/x" if path in {"lone", "benched"} else "a/x,b/y,c/z"
    if path == "benched":
        chains.fails(spec)

    with call_context(caller="bob", run_id="r2"), pytest.raises(errors.ProviderError) as caught:
        (chains.stream if path == "stream" else chains.ask)(spec)

    info = CallInfo.from_error(caught.value)
    assert (info.caller, info.run_id) == ("bob", "r2")
    assert info.model == ("a/x" if path in {"fail", "lone"} else spec)


def test_all_attempts_at_a_target_bear_one_key(chains):
    seen = []
    for provider in (chains.a, chains.b):
        provider.generate = lambda request, **options: seen.append(options) or fail()

    def fail():
        raise errors.ModelNotFound("who")

    chains.fails("a/x,b/y")
    chains.fails("a/x,b/y", idempotency_key="n1")

    keys = [options["idempotency_key"].rpartition("-") for options in seen]
    assert keys[0][0] == keys[1][0] != "n1"
    assert [key[0] for key in keys[2:]] == ["n1", "n1"]
    assert keys[0][2] == keys[2][2] != keys[1][2] == keys[3][2]
    assert [event.call_id for event in chains.told[-2:]] == ["n1", "n1"]


def test_a_key_is_a_targets_whatever_a_worker_takes_an_alias_for(chains):
    seen = {}
    for provider in (chains.a, chains.b):
        provider.generate = lambda request, **options: fail(request.model, options)

    def fail(model, options):
        seen.setdefault(model, set()).add(options["idempotency_key"])
        raise errors.ModelNotFound("who")

    for spec in ("a/x,b/y", "b/y,a/x", "A/x,a/z"):
        chains.registry.register_alias("quick", spec)
        chains.fails("quick", idempotency_key="n1")

    assert [len(keys) for keys in seen.values()] == [1, 1, 1]
    assert len(set.union(*seen.values())) == 3


def test_an_event_says_what_happened_and_not_what_was_asked(chains):
    chains.a.script(errors.RateLimited("hunter2 is slow", 429, 9.0))

    chains.ask("a/x,b/y", info=INFO, idempotency_key="n1")

    assert [event.model_dump(exclude_defaults=True) for event in chains.told[1:]] == [
        {
            "kind": kind,
            "ts": 10**9 + 1000,
            "call_id": "n1",
            "run_id": "r1",
            "caller": "ann",
            "spec": "a/x,b/y",
            "target": "a/x",
            "next_target": "b/y",
            "error_class": "RateLimited",
            "status": 429,
            "attempt": 1,
            "elapsed_s": 0,
            "retry_after_s": 9,
            "is_overload": True,
            **more,
        }
        for kind, more in [("bench", {"bench_until": 10**9 + 1009}), ("advance", {})]
    ]
    assert "hunter2" not in "".join(event.model_dump_json() for event in chains.told)


def test_an_event_shows_the_prompt_only_where_that_is_wanted(make):
    chains = make(persist_prompts=True)
    chains.a.script(DOWN)

    chains.ask()

    assert chains.told[0].messages == ASK.messages


def test_no_name_begins_another_line_of_the_log(chains, caplog):
    chains.registry.register_observer(log)
    chains.a.script(errors.BadRequest("what", 400))

    with pytest.raises(errors.BadRequest):
        chains.ask("a/x", info=CallInfo(caller="ann\nbench b/y"), idempotency_key="n1")

    (line,) = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert line == "celery_lanes: fail_fast a/x, BadRequest 400, call n1, of ann\\nbench b/y"


def test_an_observer_that_fails_is_logged_and_harms_neither_the_call_nor_the_others(chains, caplog):
    def broken(_):
        raise RuntimeError("no room")

    later = []
    chain = chains.registry.parse("a/x")
    chains.registry.register_observer(broken)
    chains.registry.register_observer(later.append)
    chains.a.script(DOWN)

    assert chain.generate(ASK).text == "tell me hunter2"

    assert [event.kind for event in later] == ["attempt_failed", "retry"]
    logged = [record for record in caplog.records if "an observer" in record.message]
    assert [str(record.exc_info[1]) for record in logged] == ["no room"] * 2


def test_a_time_limit_that_strikes_in_an_observer_is_no_failure_of_it(chains):
    def struck(_):
        raise SoftTimeLimitExceeded

    chains.registry.register_observer(struck)
    chains.a.script(DOWN)

    with pytest.raises(SoftTimeLimitExceeded):
        chains.ask()


def test_the_ledger_survives_json_and_pickle(chains):
    chains.a.script(DOWN, DOWN, DOWN, DOWN)
    chains.b.script(["one", DOWN])
    with pytest.raises(errors.StreamInterrupted) as caught:
        chains.whole()

    backend = Celery(backend="cache+memory://", set_as_current=False).backend
    for error in (caught.value, chains.fails("a/x,a/z")):
        stored = json.loads(json.dumps(backend.prepare_exception(error, "json")))
        rebuilt = backend.exception_to_python(stored)
        pickled = pickle.loads(pickle.dumps(error))

        assert type(rebuilt) is type(pickled) is type(error)
        assert rebuilt.attempts == pickled.attempts == error.attempts
        assert str(rebuilt) == str(error)


def test_a_chain_shows_its_targets_and_can_do_what_the_first_can(chains):
    able = Capabilities(tools=False)
    chains.registry.register_provider(FakeProvider("d", capabilities=able))
    chain = chains.registry.parse("d/x,a/y")

    assert (repr(chain), str(chain)) == ("Chain(d/x, a/y)", "d/x,a/y")
    assert (len(chain), [str(t) for t in chain[1:]]) == (2, ["a/y"])
    assert chain.capabilities == able
