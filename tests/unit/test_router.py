import functools
import gc

import pytest
from celery import Celery
from kombu import Exchange, Queue

from celery_lanes.config.settings import LaneSettings, Rule, Settings
from celery_lanes.errors import ConfigError
from celery_lanes.llm.providers.fake import FakeProvider
from celery_lanes.llm.registry import Registry
from celery_lanes.router import MODEL_OPTION, LaneRouter, Routed

MODEL = "ollama/llama3.1:8b"
OLLAMA = Routed("ollama", MODEL)


@pytest.fixture
def settings():
    return Settings(
        lanes={"gpu": LaneSettings(queue_prefix="big.")},
        rules=(Rule(match="openai/*", lane="openai"), Rule(match="*/*-free", lane="free")),
    )


@pytest.fixture
def router(settings):
    return LaneRouter(settings)


@pytest.fixture
def app():
    with Celery("shop", set_as_current=False) as app:
        yield app


@pytest.fixture
def task(app):
    """Decorates a function as Celery does, for this app alone."""

    def make(fun=None, **options):
        return app.task(*filter(None, [fun]), shared=False, lazy=False, **options)

    return make


@pytest.fixture
def summarise(task):
    @task
    def summarise(model, text=""): ...

    return summarise


def route(router, args=(), kwargs=None, options=None, task=None):
    return router.route("shop.summarise", args, kwargs, options, task)


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        pytest.param((MODEL, "hi"), {}, id="positional"),
        pytest.param((), {"model": MODEL}, id="keyword"),
        pytest.param([MODEL], None, id="list"),
    ],
)
def test_a_task_with_a_model_argument_is_routed_without_any_change(router, summarise, args, kwargs):
    assert route(router, args, kwargs, task=summarise) == OLLAMA


def test_celery_is_told_the_lanes_queue(router, summarise):
    assert router(summarise.name, (MODEL,), {}, {}, task=summarise) == {
        "queue": "lanes.ollama",
        MODEL_OPTION: MODEL,
    }


def test_celerys_own_router_takes_the_answer(app, router, summarise):
    app.conf.task_routes = (router, {"shop.*": {"queue": "shop"}})

    lane = app.amqp.router.route({}, summarise.name, (MODEL,), {}, summarise)
    other = app.amqp.router.route({}, "shop.pack", (), {}, None)

    assert (lane["queue"].name, other["queue"].name) == ("lanes.ollama", "shop")


def test_a_bound_task_does_not_count_self(task, router):
    @task(bind=True)
    def ask(self, model): ...

    assert route(router, (MODEL,), task=ask) == OLLAMA


def test_a_retrying_task_keeps_its_signature(task, router):
    @task(bind=True, autoretry_for=(ValueError,))
    def ask(self, text, model): ...

    assert route(router, ("hi", MODEL), task=ask) == OLLAMA


def test_a_decorated_task_keeps_its_signature(task, router):
    def logged(fun):
        @functools.wraps(fun)
        def wrapper(*args, **kwargs):
            return fun(*args, **kwargs)

        return wrapper

    @task
    @logged
    def ask(text, model): ...

    assert route(router, ("hi", MODEL), task=ask) == OLLAMA


def test_a_class_based_task_is_routed(app, router):
    class Ask(app.Task):
        name = "shop.ask"

        def run(self, model): ...

    task = app.register_task(Ask())

    assert route(router, (MODEL,), task=task) == OLLAMA


def test_a_default_model_counts(task, router):
    @task
    def ask(text, model=MODEL, *, loud=False): ...

    assert route(router, ("hi",), task=ask) == OLLAMA


def test_a_keyword_only_model_is_never_positional(task, router):
    @task
    def ask(text, *more, model="openai/gpt-5-mini"): ...

    routed = route(router, (MODEL, MODEL, MODEL), task=ask)

    assert routed == Routed("openai", "openai/gpt-5-mini")


def test_a_task_says_which_argument_holds_the_model(task, router):
    @task(model_arg="llm")
    def ask(model, llm): ...

    assert route(router, ("some/thing", MODEL), task=ask) == OLLAMA


def test_a_named_argument_without_a_provider_goes_to_the_default_lane(task, router):
    @task(model_arg="llm")
    def ask(llm): ...

    assert route(router, ("thinking",), task=ask) == Routed("default", "thinking")


@pytest.mark.parametrize(
    "model",
    [
        pytest.param("Customer", id="a-django-model"),
        pytest.param("", id="empty"),
        pytest.param("/data/weights.pt", id="a-path"),
        pytest.param("ollama/", id="no-model"),
        pytest.param(" / ", id="blanks"),
        pytest.param(None, id="none"),
        pytest.param(7, id="number"),
        pytest.param(["a/b"], id="list"),
        pytest.param(b"a/b", id="bytes"),
    ],
)
def test_an_argument_called_model_that_is_none_is_not_routed(router, summarise, model):
    assert route(router, (model,), task=summarise) is None
    assert route(router, (), {"model": model}) is None


def test_a_task_without_a_model_is_not_routed(task, router):
    @task
    def pack(path): ...

    assert route(router, ("openai/gpt-5-mini",), task=pack) is None


def test_a_missing_argument_is_not_routed(router, summarise):
    assert route(router, task=summarise) is None


def test_a_chain_of_models_goes_to_the_lane_of_the_first(router, summarise):
    chain = f"{MODEL},openai/gpt-5-mini"

    assert route(router, (chain,), task=summarise) == Routed("ollama", chain)


def test_a_task_names_its_lane(task, router):
    @task(lane="gpu")
    def imagine(prompt): ...

    assert route(router, ("a cat",), task=imagine) == Routed("gpu")
    assert router(imagine.name, ("a cat",), {}, {}, task=imagine)["queue"] == "big.gpu"


def test_a_named_lane_goes_before_the_model_and_the_publish_before_the_task(router, summarise):
    summarise.lane = "gpu"

    assert route(router, (MODEL,), task=summarise) == Routed("gpu", MODEL)
    assert route(router, (MODEL,), options={"lane": "m1"}, task=summarise) == Routed("m1", MODEL)


@pytest.mark.parametrize("lane", ["a b", "a{b}", "x" * 101, 7], ids=str)
def test_a_name_that_cannot_be_a_lanes_is_refused(router, lane):
    with pytest.raises(ConfigError, match="expected a lane to have a name"):
        router("shop.ask", (), {}, {"lane": lane})


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"queue": "mine"}, id="queue"),
        pytest.param({"queue": Queue("mine")}, id="queue-object"),
        pytest.param({"exchange": "mine"}, id="exchange"),
        pytest.param({"routing_key": "mine"}, id="routing-key"),
        pytest.param({"exchange": "mine", "routing_key": "lanes.ollama"}, id="own-exchange"),
    ],
)
def test_the_users_own_destination_wins(router, summarise, options):
    assert route(router, (MODEL,), options=options, task=summarise) is None


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"queue": "big.gpu"}, id="queue"),
        pytest.param({"queue": Queue("big.gpu")}, id="queue-object"),
        pytest.param({"exchange": "", "routing_key": "big.gpu"}, id="retry-redis"),
        pytest.param({"exchange": "big.gpu", "routing_key": "big.gpu"}, id="retry-amqp"),
        pytest.param({"exchange": Exchange("big.gpu"), "routing_key": "big.gpu"}, id="object"),
    ],
)
def test_a_lanes_queue_is_that_lane(router, summarise, options):
    assert route(router, (MODEL,), options=options, task=summarise) == Routed("gpu", MODEL)


def test_options_that_are_not_set_name_no_destination(router, summarise):
    options = {"queue": None, "exchange": None, "routing_key": None, "lane": None}

    assert route(router, (MODEL,), options=options, task=summarise) == OLLAMA


@pytest.mark.parametrize(
    ("args", "lane"),
    [
        pytest.param(("openai/gpt-5-mini", "hi"), "openai", id="by-rule"),
        pytest.param(("gpu/sdxl",), "gpu", id="by-lane"),
        pytest.param(("reports/2026.pdf",), None, id="unknown"),
        pytest.param(("reports/fat-free",), None, id="catch-all"),
        pytest.param(("hi", "openai/gpt-5-mini"), None, id="not-first"),
        pytest.param((7,), None, id="number"),
        pytest.param((), None, id="none"),
    ],
)
def test_a_task_sent_by_name_goes_by_a_provider_that_the_settings_know(router, args, lane):
    routed = route(router, args)

    assert (routed and routed.lane) == lane


def test_a_task_sent_by_name_goes_by_its_model_keyword(router):
    assert route(router, ("x",), {"model": "new-one/m"}) == Routed("new-one", "new-one/m")


def test_nothing_is_routed_when_lanes_are_off(summarise):
    router = LaneRouter(Settings(enabled=False))

    assert route(router, (MODEL,), task=summarise) is None


def test_settings_can_be_given_anew_for_each_publish(summarise):
    current = [Settings(enabled=False), Settings()]
    router = LaneRouter(lambda: current[0])
    before = route(router, (MODEL,), task=summarise)

    current.pop(0)

    assert (before, route(router, (MODEL,), task=summarise)) == (None, OLLAMA)


def test_a_router_does_not_keep_tasks_alive(router):
    class Task:
        @staticmethod
        def run(model): ...

    task = Task()
    routed = route(router, (MODEL,), task=task)
    del task
    gc.collect()

    assert routed == OLLAMA
    assert len(router._parameters) == 0


@pytest.fixture
def aliased(settings):
    """A router that knows ``quick`` and ``thinking``, and one name that it is told."""
    registry = Registry({})
    registry.register_alias("quick", MODEL)
    registry.register_alias("thinking", "quick,openai/gpt")
    registry.register_resolver({"tier-1": "openai/gpt"}.get)
    return LaneRouter(settings, lambda: registry)


@pytest.mark.parametrize(
    ("spec", "routed"),
    [
        ("quick", OLLAMA),
        ("thinking", OLLAMA),
        ("thinking,m1/x", OLLAMA),
        ("openai/gpt,quick", Routed("openai", "openai/gpt,quick")),
        ("tier-1", Routed("openai", "openai/gpt")),
        ("unknown", Routed("default", "unknown")),
        ("quick,unknown", Routed("default", "quick,unknown")),
    ],
)
def test_an_alias_leads_to_the_lane_of_its_first_model(task, aliased, spec, routed):
    @task(model_arg="llm")
    def ask(llm): ...

    assert route(aliased, (spec,), task=ask) == routed


def test_a_mere_word_in_an_argument_called_model_is_routed_if_it_is_an_alias(aliased, summarise):
    assert route(aliased, ("quick",), task=summarise) == OLLAMA
    assert route(aliased, ("tier-1",), task=summarise) is None
    assert route(aliased, ("auth.User",), task=summarise) is None


def test_the_lane_is_that_of_the_name_as_it_is_written(settings, task):
    registry = Registry({}, lane_of=lambda model: model)
    registry.register_alias("big", "Foreman-M5/qwen")
    registry.register_provider(FakeProvider("foreman_m5"))

    @task(model_arg="llm")
    def ask(llm): ...

    routed = route(LaneRouter(settings, lambda: registry), ("big",), task=ask)
    assert routed == Routed("Foreman-M5", "Foreman-M5/qwen")
    assert registry.parse("big")[0].lane == "Foreman-M5/qwen"
