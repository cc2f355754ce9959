"""A publish that says where it stands: what can be submitted, and what is told of it."""

from __future__ import annotations

import pytest
from celery import Celery, chain, chord, group
from celery.exceptions import TimeoutError as GaveUp

from celery_lanes import Lanes, Settings, Submission
from celery_lanes.envelope import Envelope
from celery_lanes.errors import ConfigError, LaneBusy, StoreUnavailable
from celery_lanes.llm.chains.journey import Journey
from celery_lanes.store.attempts import Release
from celery_lanes.store.calls import Call
from celery_lanes.store.memory.store import MemoryStore
from celery_lanes.store.rules import LaneRules, Policy, Scope
from celery_lanes.store.standing import Hold

MODEL = "ollama/x"
AT_ONCE = {"interval_start": 0, "interval_step": 0, "interval_max": 0}


class Store(MemoryStore):
    """A store whose lane has one slot, and where calls take ten seconds."""

    def __init__(self) -> None:
        self.now, self.losses = 1_700_000_000_000, 0
        super().__init__(lambda: self.now)
        self.configure("ollama", LaneRules(max_concurrent=1))
        self.next("ollama", worker="w", request=1, want=0)

    def admit(self, lane, calls, **how):
        verdicts = super().admit(lane, calls, **how)
        self.losses -= 1
        if self.losses >= 0:
            raise StoreUnavailable
        return verdicts

    def serve(self) -> None:
        """Serve one call; the next one begins."""
        (grant,) = self.next("ollama", worker="w", request=2, want=1).grants
        self.now += 10_000
        end = Release(grant.call, grant.token)
        self.next("ollama", worker="w", request=3, want=1, releases=[end])


def shop(**lanes: dict) -> Celery:
    app = Celery("shop", broker="memory://", backend="cache+memory://", set_as_current=False)
    usual = {"store": {"url": "memory://submission"}, "defaults": {"queue_prefix": "submission."}}
    Lanes(app, Settings.parse({**usual, **lanes}))
    app.lanes.parts.store = Store()

    @app.task(name="ask", shared=False)
    def ask(model):
        return "an answer"

    @app.task(name="plain", shared=False)
    def plain():
        pass

    return app


@pytest.fixture
def app():
    app = shop()
    yield app
    app.close()


@pytest.fixture
def busy(app):
    """A lane with one call that has just begun, and one of heavy's that waits."""
    for _ in range(3):
        app.tasks["ask"].apply_async((MODEL,), caller="heavy")
    app.lanes.parts.store.serve()
    return app


def test_a_call_that_finds_a_free_slot_starts_now(app):
    submission = app.lanes.submit(app.tasks["ask"].s(MODEL))

    assert isinstance(submission, Submission)
    assert (submission.position.place, submission.position.reason) == (1, Hold.NOTHING)
    assert submission.eta_s == (0, 0)
    assert app.lanes.position(submission.result) == submission.position


def test_a_call_that_waits_knows_its_place_and_when_it_starts(busy):
    ask = busy.tasks["ask"]

    light = busy.lanes.submit(ask.s(MODEL).set(caller="light"), max_wait=25)
    heavy = busy.lanes.submit(ask.s(MODEL).set(caller="heavy"))

    assert (light.position.own_ahead, light.position.others_ahead) == (0, 1)
    assert light.eta_s == (20, 20)
    assert (heavy.position.place, heavy.eta_s) == (3, (30, 30))
    assert busy.lanes.explain(light.result) == light.position.explanation


def test_a_delayed_call_starts_when_it_is_due(app):
    submission = app.lanes.submit(app.tasks["ask"].s(MODEL).set(countdown=3600))

    assert submission.position.reason is Hold.DELAYED
    assert submission.eta_s is not None


def test_a_call_that_would_wait_too_long_is_not_published(busy):
    with pytest.raises(LaneBusy) as refused:
        busy.lanes.submit(busy.tasks["ask"].s(MODEL).set(caller="heavy"), max_wait=12.5)

    error = refused.value
    assert (error.position, error.eta_s, error.retry_after_s) == (2, 20, 7.5)
    assert busy.lanes.parts.store.snapshot("ollama").waiting == 1


def test_a_longest_wait_that_the_signature_names_holds(busy):
    with pytest.raises(LaneBusy):
        busy.lanes.submit(busy.tasks["ask"].s(MODEL).set(max_wait=0))


def test_a_chain_stands_where_its_first_call_does(busy):
    ask = busy.tasks["ask"]
    steps = chain(
        ask.si(MODEL).set(caller="light"), group(ask.si(MODEL), ask.si(MODEL)), ask.si(MODEL)
    )

    submission = busy.lanes.submit(steps, max_wait=60)

    first = submission.result
    while first.parent is not None:
        first = first.parent
    assert (submission.position.place, submission.position.others_ahead) == (2, 1)
    assert busy.lanes.position(first) == submission.position
    assert busy.lanes.parts.store.snapshot("ollama").waiting == 2


def test_nothing_of_a_chain_whose_first_call_is_refused_is_published(busy):
    ask = busy.tasks["ask"]

    with pytest.raises(LaneBusy):
        busy.lanes.submit(chain(ask.si(MODEL), ask.si(MODEL)), max_wait=0)

    assert busy.lanes.parts.store.snapshot("ollama").waiting == 1


CANVASES = {
    "group": lambda ask: group(ask.s(MODEL), ask.s(MODEL)),
    "chord": lambda ask: chord([ask.s(MODEL), ask.s(MODEL)], ask.si(MODEL)),
    "chain that begins with a group": lambda ask: chain(
        group(ask.s(MODEL), ask.s(MODEL)), ask.si(MODEL)
    ),
    "chain within a chain": lambda ask: chain(chain(group(ask.s(MODEL), ask.s(MODEL)))),
    "chunks": lambda ask: ask.chunks([(MODEL,)] * 4, 2),
}


@pytest.mark.parametrize("make", CANVASES.values(), ids=CANVASES)
def test_what_begins_with_several_calls_is_refused(app, make):
    with pytest.raises(TypeError, match="submit each of them"):
        app.lanes.submit(make(app.tasks["ask"]))

    assert app.lanes.parts.store.snapshot("ollama").waiting == 0


@pytest.mark.parametrize("make", CANVASES.values(), ids=CANVASES)
def test_a_longest_wait_on_several_calls_is_refused_before_any_is_published(app, make):
    with pytest.raises(TypeError, match="expected max_wait on a call by itself"):
        make(app.tasks["ask"]).apply_async(max_wait=5, lane="ollama")

    assert app.lanes.parts.store.snapshot("ollama").waiting == 0
    make(app.tasks["ask"]).apply_async(max_wait=5, queue="plain")  # which nobody refuses


def test_what_is_no_signature_is_refused(app):
    with pytest.raises(
        TypeError, match=r"expected a signature, such as task\.s\(\.\.\.\), got ask"
    ):
        app.lanes.submit(app.tasks["ask"])


def test_what_goes_through_the_broker_stands_nowhere_yet():
    app = shop(lanes={"ollama": {"intake": "broker"}})
    ask = app.tasks["ask"]
    plain = app.tasks["plain"].s().set(queue="plain.submission")

    submissions = [app.lanes.submit(one) for one in (ask.s(MODEL), plain)]

    assert [(one.position, one.eta_s) for one in submissions] == [(None, None)] * 2
    assert all(one.result.id for one in submissions)
    with pytest.raises(ConfigError, match="for max_wait"):
        app.lanes.submit(ask.s(MODEL), max_wait=5)
    app.close()


def test_what_runs_here_and_now_stands_nowhere(app):
    app.conf.task_always_eager = True

    submission = app.lanes.submit(app.tasks["ask"].s(MODEL), max_wait=5)

    assert submission.position is None
    assert submission.result.get() == "an answer"


def test_a_call_whose_first_answer_was_lost_is_one_call_and_knows_its_place(busy):
    busy.lanes.parts.store.losses = 2
    signature = busy.tasks["ask"].s(MODEL).set(caller="light", retry=True, retry_policy=AT_ONCE)

    submission = busy.lanes.submit(signature)

    assert submission.position.place == 2
    assert busy.lanes.parts.store.snapshot("ollama").waiting == 2


def test_who_is_told_is_no_property_of_the_message(app):
    app.lanes.submit(app.tasks["ask"].s(MODEL))

    (grant,) = app.lanes.parts.store.next("ollama", worker="w", request=2, want=1).grants

    assert not [name for name in Envelope.unpack(grant.envelope).properties if "lanes" in name]


@pytest.mark.parametrize(
    "make",
    [
        lambda ask: ask,
        lambda ask: chain(ask, ask.clone(), ask.clone()),
        lambda ask: chain(ask, group(ask.clone(), ask.clone())),
        lambda ask: group(ask, ask.clone()),
        lambda ask: chord([ask, ask.clone()], ask.clone()),
    ],
    ids=["call", "chain", "chain-of-group", "group", "chord"],
)
def test_whatever_waits_is_cancelled_when_nobody_waits_for_it_any_more(busy, make):
    with pytest.raises(GaveUp):
        busy.lanes.call(make(busy.tasks["ask"].si(MODEL)), timeout=0.05)

    assert busy.lanes.parts.store.snapshot("ollama").waiting == 1


def test_a_call_is_cancelled_though_the_result_backend_is_away(busy, monkeypatch):
    def get(*_, **__):
        raise OSError("the backend is away")

    monkeypatch.setattr(busy.AsyncResult, "get", get)
    monkeypatch.setattr(busy.AsyncResult, "ready", get)

    with pytest.raises(OSError, match="away"):
        busy.lanes.call(busy.tasks["ask"].s(MODEL))

    assert busy.lanes.parts.store.snapshot("ollama").waiting == 1


class Chains(Store):
    """The lanes a, b and c, with calls of ten seconds; ``crowd`` lets more of them wait."""

    def __init__(self) -> None:
        super().__init__()
        for lane in "abc":
            self.configure(lane, LaneRules(max_concurrent=1))
            self.next(lane, worker="w", request=1, want=0)

    def crowd(self, lane: str, waiting: int) -> None:
        calls = [a_call(f"{lane}{n}") for n in range(waiting + 2)]
        self.admit(lane, calls, policy=Policy.FAIR, scope=Scope.CALLER)
        (grant,) = self.next(lane, worker="w", request=2, want=1).grants
        self.now += 10_000
        end = Release(grant.call, grant.token)
        self.next(lane, worker="w", request=3, want=1, releases=[end])


def a_call(name: str) -> Call:
    return Call(id=name, task_id=name, task="t", caller="heavy", envelope=b"{}")


@pytest.fixture
def generate(app):
    """The task, over lanes that can be crowded."""
    app.lanes.parts.store = Chains()
    app.lanes.parts.settings = Settings.parse({"store": {"url": "memory://submission"}})
    return app.tasks["celery_lanes.generate"]


def waiting(app) -> dict[str, int]:
    return {lane: app.lanes.parts.store.snapshot(lane).waiting for lane in "abc"}


def test_a_chain_that_may_not_wait_begins_in_the_first_lane_that_has_room(generate):
    app = generate.app
    app.lanes.parts.store.crowd("a", 2)
    app.lanes.parts.store.crowd("b", 1)

    generate.apply_async(("a/x,b/y,a/z,c/w", "hi"), caller="heavy", max_wait=5)

    assert waiting(app) == {"a": 2, "b": 1, "c": 1}
    (grant,) = app.lanes.parts.store.next("c", worker="v", request=1, want=1).grants
    header = Envelope.unpack(grant.envelope).headers["lanes"]
    journey = Journey.model_validate(header["stage"])
    assert (header["lane"], header["model"]) == ("c", "c/w")
    assert [(e.target, e.lane, e.error_class) for e in journey.ledger] == [
        ("a/x", "a", "LaneBusy"),
        ("b/y", "b", "LaneBusy"),
        ("a/z", "a", "LaneBusy"),
    ]
    assert (journey.to_come, journey.max_wait_s) == (("c/w",), 5)
    assert journey.call_id == header["nonce"] == grant.call


def test_when_all_lanes_are_too_busy_nothing_is_published_and_the_shortest_wait_is_told(generate):
    app = generate.app
    for lane, line in (("a", 2), ("b", 1), ("c", 3)):
        app.lanes.parts.store.crowd(lane, line)

    with pytest.raises(LaneBusy, match="lane b is busy") as caught:
        generate.apply_async(("a/x,b/y,c/z", "hi"), caller="heavy", max_wait=5)

    assert caught.value.eta_s == 10  # its running call has run for 10 s already
    assert waiting(app) == {"a": 2, "b": 1, "c": 3}


def test_a_task_that_asks_all_of_its_models_in_one_lane_waits_in_that_one(generate):
    app = generate.app
    app.lanes.parts.store.crowd("a", 2)

    with pytest.raises(LaneBusy, match="lane a is busy"):
        app.tasks["ask"].apply_async(("a/x,b/y",), caller="heavy", max_wait=5)


def test_a_call_that_names_its_lane_waits_there(generate):
    generate.app.lanes.parts.store.crowd("b", 2)

    with pytest.raises(LaneBusy, match="lane b is busy"):
        generate.apply_async(("a/x,c/z", "hi"), lane="b", caller="heavy", max_wait=5)


def test_a_cost_that_was_given_in_one_lanes_unit_is_not_taken_for_anothers(generate):
    app = generate.app
    lanes = {"a": {"cost": "tokens"}}
    app.lanes.parts.settings = Settings.parse(
        {"store": {"url": "memory://submission"}, "lanes": lanes}
    )
    app.lanes.parts.store.crowd("a", 2)

    generate.apply_async(("a/x,b/y", "hi"), caller="heavy", max_wait=5, cost=5000)

    (grant,) = app.lanes.parts.store.next("b", worker="v", request=1, want=1).grants
    assert Envelope.unpack(grant.envelope).headers["lanes"].get("cost", 1) == 1


def test_a_store_that_goes_away_behind_a_busy_lane_sends_no_call_there(generate):
    app = generate.app
    store = {"url": "memory://submission", "on_store_down": "bypass"}
    app.lanes.parts.settings = Settings.parse({"store": store})
    app.lanes.parts.store.crowd("a", 2)
    admit = app.lanes.parts.store.admit

    def away_from_b(lane, calls, **how):
        if lane == "b":
            raise StoreUnavailable
        return admit(lane, calls, **how)

    app.lanes.parts.store.admit = away_from_b

    with pytest.raises(LaneBusy, match="lane a is busy"):
        generate.apply_async(("a/x,b/y", "hi"), caller="heavy", max_wait=5, retry=False)
