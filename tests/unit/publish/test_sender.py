"""What the sender makes of a publish: of its options, of a store that fails, of another app."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from datetime import datetime, timezone

import pytest
from celery import Celery, Signature, Task
from celery.exceptions import QueueNotFound
from kombu import Exchange, Queue
from kombu.transport.native_delayed_delivery import calculate_routing_key

from celery_lanes import Lanes, call_context
from celery_lanes.callinfo import HEADER, CallInfo
from celery_lanes.config.settings import Settings
from celery_lanes.envelope import Envelope
from celery_lanes.errors import ConfigError, LaneBusy, StoreUnavailable
from celery_lanes.eta import due_ms, is_served
from celery_lanes.publish.sender import DELAYED_EXCHANGE, _delayed_to
from celery_lanes.store.attempts import Grant, Release
from celery_lanes.store.memory.store import MemoryStore
from celery_lanes.store.rules import LaneRules
from celery_lanes.testing.memory import serving
from tests.waiting import until

RULES = [{"match": "gpu/*", "lane": "imagine"}]
AT_ONCE = {"interval_start": 0, "interval_step": 0, "interval_max": 0}


class Lossy(MemoryStore):
    """A store that loses the answers to the first admits."""

    def __init__(self, losses: int) -> None:
        super().__init__()
        self.losses, self.heard = losses, 0

    def admit(self, lane, calls, **how):
        self.heard += 1
        verdicts = super().admit(lane, calls, **how)
        if self.heard <= self.losses:
            raise StoreUnavailable
        return verdicts


def app_of(name: str, *, task_cls: type | None = None, **lanes: dict) -> Celery:
    """Make an app with a broker and a store of its own, in this process's memory."""
    url = f"memory://{name}-{uuid.uuid4().hex}"
    app = Celery(name, broker=url, set_as_current=False, task_cls=task_cls)
    Lanes(app, Settings.parse({"store": {"url": url, "prefix": name}, **lanes}))

    @app.task(name="ask", shared=False)
    def ask(model):
        pass

    return app


@pytest.fixture
def app() -> Iterator[Celery]:
    app = app_of("shop")
    yield app
    app.close()


def taken(app: Celery, lane: str) -> list[Grant]:
    """Grant what waits in a lane."""
    store = app.lanes.parts.store
    store.configure(lane, LaneRules(max_concurrent=9))
    return list(store.next(lane, worker="w", request=1, want=9).grants)


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("caler", "caller"),
        ("preemptable", "preemptible"),
        ("maxwait", "max_wait"),
        ("steam", "stream"),
        ("costs", "cost"),
        ("callers", "caller"),
    ],
)
def test_what_is_nearly_an_option_is_refused_before_anything_is_published(app, said, meant):
    with pytest.raises(TypeError, match=f"no option '{said}'; did you mean {meant}"):
        app.tasks["ask"].apply_async(("ollama/x",), **{said: 1})

    assert app.lanes.parts.store.lanes() == []
    app.tasks["ask"].apply_async(
        ("ollama/x",), priority=3, expiration=9, tenant="a property of its own"
    )
    assert len(taken(app, "ollama")) == 1


def test_what_is_nearly_an_option_is_a_property_of_a_plain_tasks_message_as_in_celery(app):
    @app.task(shared=False)
    def tidy(folder): ...

    @app.task(shared=False)
    def index(model):
        """Named for a model of Django's."""

    for task in (tidy, index):
        task.apply_async(("shop.Order",), costs=3)

    with app.connection_for_write() as connection:
        queue = connection.SimpleQueue("celery")
        brought = [queue.get_nowait().properties["costs"] for _ in range(2)]
    assert brought == [3, 3]


def test_an_option_that_a_task_class_of_ones_own_takes_is_no_misspelling():
    class Shared(Task):
        abstract = True

        def apply_async(self, args=None, kwargs=None, *rest, callers=(), **options):
            return super().apply_async(args, kwargs, *rest, caller="+".join(callers), **options)

    app = app_of("shared", task_cls=Shared)

    app.tasks["ask"].apply_async(("ollama/x",), callers=["ann", "bob"])

    assert [grant.caller for grant in taken(app, "ollama")] == ["ann+bob"]
    app.close()


def test_what_estimates_a_call_may_be_a_function_or_a_method():
    app = app_of("dear", defaults={"cost": "tokens"})

    class Method(app.Task):
        name = "method"
        factor = 3

        def run(self, model, text):
            pass

        def estimate_cost(self, model, text):
            return self.factor * len(text)

    def run(model, text):
        pass

    app.register_task(Method())
    app.task(name="plain", estimate_cost=lambda model, text: len(text))(run)
    app.task(name="static", estimate_cost=staticmethod(lambda model, text: 5))(run)
    for name in ("method", "plain", "static"):
        app.tasks[name].delay("ollama/x", "four")

    grants = taken(app, "ollama")
    headers = [Envelope.unpack(grant.envelope).headers for grant in grants]
    costs = {header["task"]: header[HEADER]["cost"] for header in headers}
    assert costs == {"method": 12, "plain": 4, "static": 5}
    app.close()


# -- what a call costs


@pytest.mark.parametrize("cost", [0, -1, float("nan"), 1e10, "7", True], ids=repr)
@pytest.mark.parametrize("intake", ["store", "broker"])
def test_a_cost_that_is_none_is_refused_before_anything_is_published(intake, cost):
    app = app_of("shop", lanes={"ollama": {"intake": intake}})

    with pytest.raises(ValueError, match=r"expected cost to be a number from 1 to 1e\+09, got"):
        app.tasks["ask"].apply_async(("ollama/x",), cost=cost)

    assert app.lanes.parts.store.lanes() == []
    app.close()


def test_a_retry_costs_what_was_said_at_its_publish_and_a_child_does_not():
    app, costs = app_of("shop", lanes={"ollama": {}}), []

    @app.task(bind=True, shared=False)
    def again(self, model, is_child):
        costs.append(CallInfo.from_request(self.request).cost)
        if not is_child and not self.request.retries:
            again.apply_async((model, True), headers=self.request.headers)
            raise self.retry(countdown=0)

    with serving(app, "ollama"):
        again.apply_async(("ollama/x", False), cost=7)
        until(lambda: len(costs) == 3)

    assert sorted(costs, key=str) == [7, 7, None]
    app.close()


@pytest.mark.parametrize(("retries", "kept"), [(1, ({"page": 7}, 6.0)), (0, (None, None))])
def test_a_retry_that_no_task_publishes_keeps_its_stage_and_its_cost(app, retries, kept):
    """As Celery's ``retry_on_worker_lost`` does, in the worker that has lost the process."""
    carried = {HEADER: {"lane": "ollama", "nonce": "n-1", "cost": 6.0, "stage": {"page": 7}}}

    app.tasks["ask"].apply_async(("ollama/x",), headers=carried, retries=retries)

    (grant,) = taken(app, "ollama")
    header = Envelope.unpack(grant.envelope).headers[HEADER]
    assert (header.get("stage"), header.get("cost")) == kept


# -- Celery's own ways


@pytest.mark.parametrize(
    "many",
    [
        lambda ask: ask.map(["ollama/x", "ollama/y"]),
        lambda ask: ask.starmap([("ollama/x",), ("ollama/y",)]),
        lambda ask: ask.chunks([("ollama/x",), ("ollama/y",)], 2),
    ],
    ids=["map", "starmap", "chunks"],
)
def test_a_chunk_is_no_lanes_call_unless_it_says_so(app, many):
    many(app.tasks["ask"]).apply_async()
    assert app.lanes.parts.store.lanes() == []

    many(app.tasks["ask"]).apply_async(lane="ollama", caller="alice")

    (grant,) = taken(app, "ollama")
    assert Envelope.unpack(grant.envelope).headers[HEADER]["caller"] == "alice"


def test_a_lane_without_a_declared_queue_is_refused_where_queues_must_be(app):
    app.conf.task_create_missing_queues = False
    app.conf.task_queues = [Queue("celery"), Queue("lanes.ollama")]

    app.tasks["ask"].delay("ollama/x")
    with pytest.raises(QueueNotFound, match=r"lanes\.openai"):
        app.tasks["ask"].delay("openai/x")

    assert app.lanes.parts.store.lanes() == ["ollama"]


# -- stamps


def stamped(signature: Signature, **stamps: object) -> Signature:
    """Stamp it; Celery keeps stamps among the options of a signature."""
    signature.stamp(**stamps)
    return signature


@pytest.mark.parametrize("name", ["lanes", "callers", "lane", "stream", "cost", "max_wait"])
def test_a_stamp_is_no_option_whatever_it_is_called(app, name):
    stamped(app.tasks["ask"].s("ollama/x"), **{name: "order-7"}).apply_async()

    (grant,) = taken(app, "ollama")
    assert Envelope.unpack(grant.envelope).headers["stamps"] == {name: "order-7"}


@pytest.mark.parametrize("stamp", ["alice", ["alice"]], ids=["text", "list"])
def test_a_stamp_that_names_the_caller_is_the_caller(app, stamp):
    stamped(app.tasks["ask"].s("ollama/x").set(caller="bob"), caller=stamp).apply_async()

    (grant,) = taken(app, "ollama")
    assert Envelope.unpack(grant.envelope).headers[HEADER]["caller"] == "alice"


# -- a lane that nobody may serve


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("ollam/x", "lane 'ollam' is named in no settings (did you mean ollama?); its calls wait"),
        ("acme/x", "lane 'acme' is named in no settings; its calls wait"),
        ("llama3", "'llama3' is no provider/model, and no alias here, so its lane is default"),
    ],
)
def test_a_lane_that_no_settings_name_is_warned_of_once(caplog, model, said):
    app = app_of("strange", lanes={"ollama": {}, "glob*": {}}, rules=RULES)
    app.tasks["ask"].model_arg = "model"
    for _ in range(2):
        for known in ("ollama/x", "glob-7/x", "gpu/x"):
            app.tasks["ask"].delay(known)
        app.tasks["ask"].delay(model)

    (line,) = caplog.messages
    assert said in line
    assert line.endswith(
        f"celery worker -Q lanes.{model.partition('/')[0].replace('llama3', 'default')}"
    )


@pytest.mark.parametrize(
    ("model", "is_odd"), [("acme/x", False), ("openai/x", False), ("opnai/x", True)]
)
def test_where_no_lane_is_named_only_what_looks_mistyped_is_warned_of(app, caplog, model, is_odd):
    app.tasks["ask"].delay(model)

    assert bool(caplog.messages) == is_odd


def test_unknown_lanes_may_be_accepted_or_refused(caplog):
    willing = app_of("willing", lanes={"ollama": {}}, unknown_lanes="accept")
    strict = app_of("strict", lanes={"ollama": {}}, unknown_lanes="refuse")

    willing.tasks["ask"].delay("ollam/x")
    strict.tasks["ask"].delay("ollama/x")
    for _ in range(2):
        with pytest.raises(
            ConfigError, match=r"did you mean ollama.*, and unknown lanes are refused"
        ):
            strict.tasks["ask"].delay("ollam/x")

    assert (caplog.messages, strict.lanes.parts.store.lanes()) == ([], ["ollama"])


# -- a call that would wait too long


class Slow(MemoryStore):
    """A store whose lane has a slot, and calls that take ten seconds."""

    def __init__(self) -> None:
        self.now = 1_700_000_000_000
        super().__init__(lambda: self.now)
        self.configure("ollama", LaneRules(max_concurrent=1))

    def serve(self) -> None:
        (grant,) = self.next("ollama", worker="w", request=1, want=1).grants
        self.now += 10_000
        end = Release(grant.call, grant.token)
        self.next("ollama", worker="w", request=2, want=1, releases=[end])


def test_a_call_that_would_wait_too_long_is_not_published(app):
    store = app.lanes.parts.store = Slow()
    ask = app.tasks["ask"]
    for _ in range(4):
        ask.apply_async(("ollama/x",), caller="heavy")
    store.serve()

    with pytest.raises(LaneBusy) as refused:
        ask.apply_async(("ollama/x",), caller="heavy", max_wait=12.5)
    ask.apply_async(("ollama/x",), caller="light", max_wait=25)

    error = refused.value
    assert (error.position, error.eta_s, error.retry_after_s) == (3, 30, 17.5)
    assert str(error) == (
        "lane ollama is busy: the call would wait 30s behind 2 others, more than 12s"
    )
    assert store.snapshot("ollama").waiting == 3


def test_a_longest_wait_is_no_property_of_the_message(app):
    app.tasks["ask"].apply_async(("ollama/x",), max_wait=5)

    (grant,) = taken(app, "ollama")

    assert "max_wait" not in Envelope.unpack(grant.envelope).properties


def test_a_longest_wait_is_refused_where_no_store_decides():
    app = app_of("shop", lanes={"ollama": {"intake": "broker"}})

    with pytest.raises(ConfigError, match=r'expected lane ollama to have intake = "store"'):
        app.tasks["ask"].apply_async(("ollama/x",), max_wait=5)

    app.close()


@pytest.mark.parametrize("wait", [-1, float("nan"), float("inf"), 1e300, "5", True], ids=repr)
def test_a_longest_wait_that_is_no_time_is_refused_in_seconds(app, wait):
    with pytest.raises(ValueError, match="expected max_wait to be a number of seconds, 0 or more"):
        app.tasks["ask"].apply_async(("ollama/x",), max_wait=wait)

    assert taken(app, "ollama") == []


# -- a store that fails


def test_a_publish_is_tried_again_as_its_retry_policy_says_and_is_one_call(app):
    store = app.lanes.parts.store = Lossy(losses=3)

    app.tasks["ask"].apply_async(("ollama/x",), retry=True, retry_policy=AT_ONCE)

    assert store.heard == 4
    assert store.snapshot("ollama").waiting == 1


@pytest.mark.parametrize(
    ("options", "tries"),
    [
        ({"retry": False}, 1),
        ({"retry": True, "retry_policy": {**AT_ONCE, "max_retries": 1}}, 2),
    ],
    ids=["no retry", "one retry"],
)
def test_a_publish_gives_up_when_its_retry_policy_says_so(app, options, tries):
    store = app.lanes.parts.store = Lossy(losses=9)

    with pytest.raises(StoreUnavailable):
        app.tasks["ask"].apply_async(("ollama/x",), **options)

    assert store.heard == tries


def test_a_publish_that_never_gives_up_goes_to_the_broker_all_the_same():
    app = app_of("shop", store={"url": "memory://shop-bypass", "on_store_down": "bypass"})
    store = app.lanes.parts.store = Lossy(losses=99)
    endless = {**AT_ONCE, "max_retries": None}

    app.tasks["ask"].apply_async(("ollama/x",), retry=True, retry_policy=endless)

    with app.connection() as connection:
        assert connection.SimpleQueue("lanes.ollama").get(block=False)
    assert store.heard == 4
    app.close()


def test_nobody_listens_any_more_for_what_was_not_published_once_the_store_is_back(app):
    """Each would be a subscription for ever; while the store is away, giving up may take 20 s."""
    app.lanes.parts.store, forgotten = Lossy(losses=2), set()
    app.backend.remove_pending_result = lambda result: forgotten.add(result.id)
    ask = app.tasks["ask"]

    for task_id in ("one", "two"):
        with pytest.raises(StoreUnavailable):
            ask.apply_async(("ollama/x",), task_id=task_id, retry=False)
    ask.apply_async(("ollama/x",), ignore_result=True)
    assert not forgotten & {"one", "two"}
    ask.apply_async(("ollama/x",))

    assert forgotten >= {"one", "two"}


# -- two apps in one process


def test_each_app_of_a_process_publishes_into_its_own_lanes():
    one = app_of("one", rules=[{"match": "*", "lane": "one"}])
    two = app_of("two", rules=[{"match": "*", "lane": "two"}])

    with call_context(caller="alice"):
        one.tasks["ask"].delay("ollama/x")
        two.tasks["ask"].delay("ollama/x")

    for app, lane in [(one, "one"), (two, "two")]:
        (grant,) = taken(app, lane)
        header = Envelope.unpack(grant.envelope).headers[HEADER]
        assert (header["lane"], header["caller"]) == (lane, "alice")
        assert app.lanes.parts.store.lanes() == [lane]
        app.close()


def test_an_app_without_lanes_is_left_alone_by_one_that_has_them(app):
    plain = Celery("plain", broker=f"memory://plain-{uuid.uuid4().hex}", set_as_current=False)

    with plain.connection() as connection, call_context(caller="alice"):
        plain.send_task("ask", ("ollama/x",), queue="lanes.ollama", connection=connection)
        app.tasks["ask"].delay("ollama/x")
        message = connection.SimpleQueue("lanes.ollama").get(block=False)

    assert HEADER not in message.headers
    assert app.lanes.parts.store.snapshot("ollama").waiting == 1
    plain.close()


def test_typed_headers_keep_their_types_on_the_way_into_the_lane(app):
    when = datetime(2026, 2, 28, tzinfo=timezone.utc)

    app.tasks["ask"].apply_async(("ollama/x",), headers={"when": when, "order": uuid.UUID(int=17)})

    (grant,) = taken(app, "ollama")
    headers = Envelope.unpack(grant.envelope).headers
    assert (headers["when"], headers["order"]) == (when, uuid.UUID(int=17))


# -- options


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


# -- how urgent


def admitted(app: Celery, publish) -> list[int]:
    """Publish; give the priorities of the calls that wait then."""
    publish(app.tasks["ask"])
    records = app.lanes.parts.store._lanes["ollama"].records.values()
    return [record.call.priority for record in records]


@pytest.fixture
def urgent(app: Celery) -> Celery:
    """Give an app whose task has a priority of its own."""
    app.tasks["ask"].lane_priority = 5
    return app


def test_a_publish_says_how_urgent_it_is(app):
    assert admitted(app, lambda ask: ask.apply_async(("ollama/x",), lane_priority=-7)) == [-7]


def test_a_context_says_how_urgent_and_an_inner_one_has_the_last_word(app):
    with call_context(priority=10):
        assert admitted(app, lambda ask: ask.delay("ollama/x")) == [10]
        with call_context(caller="alice"):
            assert admitted(app, lambda ask: ask.delay("ollama/x")) == [10, 10]
        with call_context(priority=0):
            assert admitted(app, lambda ask: ask.delay("ollama/x")) == [10, 10, 0]


@pytest.mark.parametrize(
    ("context", "options", "priority"),
    [
        ({}, {}, 5),
        ({}, {"priority": 9}, 5),
        ({"priority": 3}, {"priority": 9}, 3),
        ({"priority": 0}, {}, 0),
        ({"priority": 3}, {"lane_priority": -1}, -1),
        ({"priority": 3}, {"lane_priority": 0, "priority": 9}, 0),
        ({"caller": "alice"}, {}, 5),
    ],
    ids=["task", "task-option", "context", "context-0", "publish", "publish-0", "other-context"],
)
def test_the_publish_goes_before_the_context_and_that_before_the_task(
    urgent, context, options, priority
):
    with call_context(**context):
        assert admitted(urgent, lambda ask: ask.apply_async(("ollama/x",), **options)) == [priority]


def test_celerys_own_priority_counts_where_nothing_else_is_said(app):
    assert admitted(app, lambda ask: ask.apply_async(("ollama/x",), priority=9)) == [9]


def test_how_urgent_a_call_is_stands_in_the_header_and_nowhere_else(app):
    app.tasks["ask"].apply_async(("ollama/x",), lane_priority=10)

    (grant,) = taken(app, "ollama")
    message = Envelope.unpack(grant.envelope)
    assert message.headers[HEADER]["priority"] == 10
    assert "lane_priority" not in {**message.headers, **message.properties}
    assert not message.properties.get("priority")


@pytest.mark.parametrize(("priority", "nearest"), [(99_999, 1000), (-99_999, -1000)])
def test_celerys_own_priority_has_no_bounds_and_gets_the_nearest_there_is(app, priority, nearest):
    publish = admitted(app, lambda ask: ask.apply_async(("ollama/x",), priority=priority))

    assert publish == [nearest]


def test_a_call_that_comes_again_keeps_its_priority(urgent):
    carried = {HEADER: {"lane": "ollama", "nonce": "n-1", "priority": -3}}

    assert admitted(urgent, lambda ask: ask.apply_async(("ollama/x",), headers=carried)) == [-3]


@pytest.mark.parametrize("priority", [1001, -1001, "high", 2.5, True], ids=repr)
@pytest.mark.parametrize("queue", ["lanes.ollama", "plain"])
def test_nonsense_is_refused_before_anything_is_published(app, priority, queue):
    with pytest.raises(ValueError, match="expected lane_priority to be a whole number from -1000"):
        app.tasks["ask"].apply_async(("ollama/x",), queue=queue, lane_priority=priority)

    assert app.lanes.parts.store.lanes() == []


def test_nonsense_of_a_task_is_refused_by_name(app):
    app.tasks["ask"].lane_priority = "high"

    with pytest.raises(ValueError, match=r"expected lane_priority of task ask to be .* got 'high'"):
        app.tasks["ask"].delay("ollama/x")

    assert app.lanes.parts.store.lanes() == []


def test_eager_tasks_take_a_priority_and_refuse_nonsense(app):
    ask = app.tasks["ask"]

    assert ask.apply(("ollama/x",), lane_priority=5).successful()
    with pytest.raises(ValueError, match="expected lane_priority"):
        ask.apply(("ollama/x",), lane_priority="high")


@pytest.mark.parametrize(
    ("of_task", "options", "is_preemptible"),
    [
        (None, {}, False),
        (True, {}, True),
        (True, {"preemptible": False}, False),
        (None, {"preemptible": True}, True),
        (True, {"headers": {HEADER: {"nonce": "n", "preemptible": False}}}, False),
    ],
    ids=["nobody", "task", "publish", "publish-alone", "comes-again"],
)
def test_the_publish_says_whether_a_call_makes_room_else_the_call_before_else_the_task(
    app, of_task, options, is_preemptible
):
    app.tasks["ask"].preemptible = of_task

    app.tasks["ask"].apply_async(("ollama/x",), **options)

    (record,) = app.lanes.parts.store._lanes["ollama"].records.values()
    assert record.call.preemptible is is_preemptible


def test_what_is_no_answer_is_refused_before_anything_is_published(app):
    with pytest.raises(ValueError, match="expected preemptible to be True or False, got 'yes'"):
        app.tasks["ask"].apply_async(("ollama/x",), preemptible="yes")

    assert app.lanes.parts.store.lanes() == []
    assert app.tasks["ask"].apply(("ollama/x",), preemptible=True).successful()
