"""Verbs are functions where a server keeps them, scripts where it has none or may not be taught."""

from __future__ import annotations

import re
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest
from redis import Redis

from celery_lanes.errors import StoreError
from celery_lanes.store.attempts import Renewal
from celery_lanes.store.connect import open_store
from celery_lanes.store.redis import lua
from celery_lanes.store.redis.dialect import Functions, Scripts, Sources
from celery_lanes.testing.embedded import EmbeddedValkey, find_program
from tests import services
from tests.store.driving import Driver, RealClock

FUNCTIONS, WAITAOF = (7, 0), (7, 2)


def served(url: str, **options: str) -> Driver:
    """Take a call through a lane of its own, and leave one waiting."""
    lane = Driver(open_store(url, prefix=f"test-{uuid.uuid4().hex}", **options), RealClock())
    lane.configure()
    lane.park(times=2)
    lane.release(lane.take())
    assert lane.counts == (0, 1, 0, 0)
    return lane


def redis_without_functions() -> EmbeddedValkey:
    """Take functions from a Redis that has them."""
    program = services.redis_program()
    has_them = services.version_of(program) >= FUNCTIONS
    return EmbeddedValkey(*(["--rename-command", "FCALL", ""] if has_them else []), program=program)


def scripts_run(client: Redis) -> int:
    return client.info("commandstats").get("cmdstat_evalsha", {"calls": 0})["calls"]


def functions_run(client: Redis) -> int:
    return client.info("commandstats").get("cmdstat_fcall", {"calls": 0})["calls"]


@pytest.mark.parametrize("program", [None, services.redis_program], ids=["valkey", "redis"])
def test_a_server_with_functions_is_taught_them_once(program):
    program = program() if program else find_program()
    services.need(FUNCTIONS, program)
    with EmbeddedValkey(program=program) as server:
        client = Redis.from_url(server.url())

        for _ in range(3):
            served(server.url())

        assert [name for (_, name, *_) in client.function_list()] == [
            lua.library("next").name.encode()
        ]
        assert scripts_run(client) == 0
        assert client.info("commandstats")["cmdstat_function|load"]["calls"] == 1


def test_a_server_that_has_forgotten_its_functions_is_taught_again(valkey):
    lane = served(valkey.url())
    Redis.from_url(valkey.url()).function_flush()

    lane.park()

    assert lane.counts == (0, 2, 0, 0)


def test_another_versions_functions_stay(valkey):
    client = Redis.from_url(valkey.url())
    client.function_load(
        "#!lua name=lanes_0 \nredis.register_function('lanes_0_next', function() return 1 end)"
    )

    served(valkey.url())

    assert client.fcall("lanes_0_next", 0) == 1
    client.function_delete("lanes_0")


def test_a_server_without_functions_gets_scripts():
    with redis_without_functions() as server:
        lane = served(server.url())

        assert scripts_run(Redis.from_url(server.url())) > 0
        assert isinstance(lane.store._wire._speech.dialect, Scripts)


def test_a_user_who_may_not_load_functions_uses_scripts():
    with EmbeddedValkey() as server:
        client = Redis.from_url(server.url())
        client.execute_command("ACL SETUSER shop on >secret ~* &* +@all -function")

        lane = served(server.url().replace("redis://", "redis://shop:secret@"))

        assert isinstance(lane.store._wire._speech.dialect, Scripts)
        assert client.function_list() == []


def test_a_user_who_may_load_nothing_sends_the_source():
    with EmbeddedValkey() as server:
        Redis.from_url(server.url()).execute_command(
            "ACL SETUSER shop on >secret ~* &* +@all -@scripting +eval"
        )

        lane = served(server.url().replace("redis://", "redis://shop:secret@"))

        assert isinstance(lane.store._wire._speech.dialect, Sources)


@pytest.mark.parametrize("program", [None, services.redis_program], ids=["valkey", "redis"])
def test_a_full_server_that_takes_no_functions_still_renews_and_releases(program):
    program = program() if program else find_program()
    services.need(FUNCTIONS, program)
    with EmbeddedValkey(program=program) as server:
        old = served(server.url())
        grant = old.take()
        client = Redis.from_url(server.url())
        client.function_flush()
        client.config_set("maxmemory", 1)
        lane = Driver(open_store(server.url(), prefix=old.store._keys.prefix), RealClock())

        renewal = lane.store.renew(lane.lane, worker="w1", held=[(grant.call, grant.token)])
        lane.release(grant)

        assert renewal == Renewal()
        assert lane.counts == (0, 0, 0, 0)


def test_threads_that_find_a_server_without_functions_together_are_all_served():
    with redis_without_functions() as server:
        for _ in range(5):
            store = open_store(server.url(), prefix=uuid.uuid4().hex)
            with ThreadPoolExecutor(4) as threads:
                counts = list(threads.map(lambda _: store.snapshot("a").waiting, range(8)))  # noqa: B023 # used at once
            assert counts == [0] * 8


def test_a_user_who_may_not_run_scripts_either_is_told_so():
    with EmbeddedValkey() as server:
        Redis.from_url(server.url()).execute_command(
            "ACL SETUSER shop on >secret ~* &* +@all -@scripting"
        )
        url = server.url().replace("redis://", "redis://shop:secret@")

        with pytest.raises(StoreError, match="no permissions"):
            served(url)


def test_durable_admits_teach_and_fall_back_as_well():
    services.need(WAITAOF, find_program())
    with EmbeddedValkey("--appendonly", "yes") as server:
        served(server.url(), durability="aof")
        assert functions_run(Redis.from_url(server.url())) > 0


@pytest.mark.parametrize("verb", lua.verbs())
def test_a_function_binds_every_key_anew(verb):
    """What another lane's call has left there must not be taken for this one's."""
    library = lua.library(verb)
    function = library.source.split(f"_{verb}',")[1]

    bound = re.search(rf"^({library.kinds[0]}, .*) = (.*)$", function, re.MULTILINE)
    kinds, values = bound[1].split(", "), bound[2].split(", ")
    assert tuple(kinds) == library.kinds
    used = [kind for kind, value in zip(kinds, values, strict=True) if value != "nil"]
    assert set(used) == set(lua.load(verb).kinds)


def test_both_dialects_have_every_verb():
    for verb in lua.verbs():
        assert Functions().words(verb)[1].endswith(f"_{verb}")
        assert Scripts().words(verb) == ("EVALSHA", lua.load(verb).sha)


@pytest.mark.parametrize(
    "verb", sorted(set(lua.verbs()) - {"close"})
)  # it moves no call that waits
def test_a_script_uses_the_files_of_the_functions_that_it_may_call(verb):
    used = {"prelude", *lua._header(lua._read(verb), "USES")}
    source = re.sub(r"--.*", "", lua.load(verb).source)

    for name in set(lua.SHARED) - used:
        made = set(re.findall(r"^(?:local |  )function (\w+)", lua._read(f"_{name}"), re.MULTILINE))
        own = set(re.findall(r"local function (\w+)", lua._read(verb)))
        assert not {f for f in made - own if re.search(rf"\b{f}\(", source)}, name
