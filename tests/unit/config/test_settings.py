import copy
import pickle
import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from celery_lanes.config.durations import duration_s, written
from celery_lanes.config.settings import (
    CallerSettings,
    HealthSettings,
    LaneSettings,
    Rule,
    Settings,
)
from celery_lanes.errors import ConfigError
from celery_lanes.store.checks import check_rules
from celery_lanes.store.health import HealthConfig
from celery_lanes.store.rules import (
    MAX_CALLERS,
    Bucket,
    CallerRules,
    LaneRules,
    Policy,
    Preemption,
    Scope,
)

SHIPPED = Path(__file__).parents[3] / "config" / "lanes.toml"


@pytest.fixture
def load(tmp_path):
    """Loads what a file says, or tells what is wrong with it, line by line."""

    def load(text, **env):
        path = tmp_path / "lanes.toml"
        path.write_text(text, encoding="utf-8")
        return Settings.load(path, env)

    return load


@pytest.fixture
def complaints(load, tmp_path):
    def complaints(text, **env):
        with pytest.raises(ConfigError) as caught:
            load(text, **env)
        return str(caught.value).replace(f"{tmp_path}/", "").splitlines()

    return complaints


# The file as shipped


@pytest.mark.parametrize(
    ("model", "lane", "glob"),
    [
        ("ollama/llama3.1:8b", "ollama", "ollama/*"),
        ("ollama-cloud/minimax-m3:cloud", "ollama", "ollama-cloud/*"),
        ("anthropic/opus-4.8-thinking", "anthropic-thinking", "anthropic/*thinking*"),
        ("anthropic/opus-4.8", "anthropic-default", "anthropic/*"),
        ("m1/richardyoung/qwen3-14b:q4_K_M", "m1", "m1/*"),
        ("gemini/gemini-3-pro", "google", "gemini/*"),
        ("google/gemini-3-pro", "google", None),
        ("openai/gpt-5-mini", "openai", None),
        ("foreman-m5/qwen3:30b", "foreman-m5", None),
        ("brand-new/model", "brand-new", None),
    ],
    ids=lambda value: str(value).replace("/", "-"),
)
def test_the_shipped_file_knows_the_seeds_lanes(model, lane, glob):
    match = Settings.load(SHIPPED, {}).lane_for(model)

    assert (match.lane, match.rule and match.rule.match) == (lane, glob)


def test_the_shipped_file_gives_slow_local_models_half_an_hour():
    foreman = Settings.load(SHIPPED, {}).lane("foreman-m5")

    assert (foreman.exec_timeout_s, foreman.hard_timeout_s) == (1800, 1860)


def test_the_shipped_file_caps_ollama_at_its_three_connections():
    assert Settings.load(SHIPPED, {}).lane("ollama").max_concurrent == 3


def test_what_the_shipped_file_comments_out_is_the_default(load):
    defaults = SHIPPED.read_text().partition("[defaults]")[2].partition("\n\n")[0]
    commented = re.findall(r'^# (\w+ = (?:"[^"]*"|\w+)) +#(?! no default)', defaults, re.MULTILINE)

    settings = load("\n".join(["[defaults]", *commented]))

    assert len(commented) >= 9
    assert settings.lane("x").model_copy(update={"burst": None}) == LaneSettings()


def test_the_health_that_the_shipped_file_comments_out_is_the_default(load):
    table = SHIPPED.read_text().partition("[health]")[2].partition("\n\n")[0]
    commented = re.findall(r'^# (\w+ = (?:"[^"]*"|[\w.]+)) +#', table, re.MULTILINE)

    health = load("\n".join(["[health]", *commented])).health

    assert len(commented) == len(HealthSettings.model_fields)
    assert health == HealthSettings()
    assert health.config == HealthConfig()


def test_a_first_cooldown_that_is_longer_than_the_longest_is_that_too(load):
    health = load('[health]\nbase_cooldown = "10m"\nquota_cooldown = "3d"').health.config

    assert (health.max_cooldown_s, health.max_quota_cooldown_s) == (600, 3 * 86400)


def test_everything_that_the_shipped_file_comments_out_may_be_used(load):
    text = re.sub(r"^# (?=\[|\w+ = )", "", SHIPPED.read_text(), flags=re.MULTILINE)

    settings = load(text)

    assert settings.callers["alice"].weight == 3
    assert settings.lane("openai").rate == Bucket(500, 60_000, 1)


# Where settings come from


def test_without_a_file_there_are_the_defaults(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    assert Settings.load(env={}) == Settings()


def test_the_file_of_the_working_directory_is_read(tmp_path, monkeypatch):
    (tmp_path / "config").mkdir()
    (tmp_path / "config/lanes.toml").write_text("[lanes.m1]\nmax_concurrent = 1")
    monkeypatch.chdir(tmp_path)

    assert Settings.load(env={}).lane("m1").max_concurrent == 1


def test_the_environment_names_another_file(tmp_path):
    (tmp_path / "mine.toml").write_text("enabled = false")

    settings = Settings.load(env={"CELERY_LANES_CONFIG": str(tmp_path / "mine.toml")})

    assert settings.enabled is False


def test_a_path_goes_before_the_environment(load):
    assert load("enabled = false", CELERY_LANES_CONFIG="/nowhere").enabled is False


@pytest.mark.parametrize("how", ["path", "environment"])
def test_a_named_file_that_is_missing_is_an_error(how):
    given = {
        "path": ("/no/x.toml", {}),
        "environment": (None, {"CELERY_LANES_CONFIG": "/no/x.toml"}),
    }

    with pytest.raises(ConfigError, match=r"^cannot read /no/x.toml: No such file or directory$"):
        Settings.load(*given[how])


def test_a_file_that_cannot_be_read_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match="Is a directory"):
        Settings.load(tmp_path, {})


def test_a_file_of_the_working_directory_that_cannot_be_read_is_an_error(tmp_path, monkeypatch):
    (tmp_path / "config").mkdir()
    (tmp_path / "config/lanes.toml").symlink_to("lanes.toml")  # as a folder of another user's
    monkeypatch.chdir(tmp_path)

    with pytest.raises(ConfigError, match=r"^cannot read config/lanes.toml: "):
        Settings.load(env={})


def test_the_environment_overrides_the_stores_url(load):
    text = '[store]\nurl = "redis://file/0"\nprefix = "mine"'

    store = load(text, CELERY_LANES_STORE_URL="redis://env/0").store

    assert (store.url_value, store.prefix) == ("redis://env/0", "mine")


def test_a_url_from_the_environment_that_is_none_is_named_and_not_shown(load):
    with pytest.raises(
        ConfigError, match=r"^expected \$CELERY_LANES_STORE_URL to be a URL"
    ) as caught:
        load("", CELERY_LANES_STORE_URL="s3cret")

    assert "s3cret" not in str(caught.value)


# What is wrong is told


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        pytest.param(
            "[lanes.ollama]\nmax_concurrent = 0",
            "expected lanes.ollama.max_concurrent to be a positive integer, got 0 (lanes.toml)",
            id="number",
        ),
        pytest.param(
            "[lanes.ollama]\nmax_concurrent = 100_001",
            "expected lanes.ollama.max_concurrent to be at most 100000, got 100001 (lanes.toml)",
            id="more-slots-than-a-store-counts",
        ),
        pytest.param(
            f"[lanes.ollama]\nlease_ttl = {'9' * 400}",
            "expected lanes.ollama.lease_ttl to be a duration such as "
            f'"90s", "5m" or "1h30m", or a number of seconds, got {"9" * 60}... (lanes.toml)',
            id="longer-than-a-store-counts",
        ),
        pytest.param(
            '[lanes.ollama]\nmax_concurrent = "4"',
            'expected lanes.ollama.max_concurrent to be a positive integer, got "4" (lanes.toml)',
            id="number-in-quotes",
        ),
        pytest.param(
            "[lanes.ollama]\nmax_concurrent = true",
            "expected lanes.ollama.max_concurrent to be a positive integer, got true (lanes.toml)",
            id="bool-for-number",
        ),
        pytest.param(
            "[lanes.ollama]\nmax_concurent = 3",
            "unknown key lanes.ollama.max_concurent; did you mean max_concurrent? (lanes.toml)",
            id="typo",
        ),
        pytest.param(
            "[lanes.ollama]\nexec_timeout_s = 3",
            "unknown key lanes.ollama.exec_timeout_s; did you mean exec_timeout? (lanes.toml)",
            id="unit-in-key",
        ),
        pytest.param(
            "[lane.ollama]", "unknown key lane; did you mean lanes? (lanes.toml)", id="table"
        ),
        pytest.param("[shop]", "unknown key shop (lanes.toml)", id="no-nearest-key"),
        pytest.param(
            '[lanes.ollama]\npolicy = "lifo"',
            'expected lanes.ollama.policy to be "fair" or "fifo", got "lifo" (lanes.toml)',
            id="choice",
        ),
        pytest.param(
            '[lanes.ollama]\npriority_scope = "run"',
            'expected lanes.ollama.priority_scope to be "caller" or "lane", got "run" (lanes.toml)',
            id="scope",
        ),
        pytest.param(
            '[lanes.ollama]\npreemption = true\npriority_scope = "caller"',
            'expected lanes.ollama.priority_scope to be "lane" where preemption is true, '
            'got "caller" (lanes.toml)',
            id="preemption-without-levels",
        ),
        pytest.param(
            '[defaults]\npriority_scope = "caller"\n[lanes.a]\npreemption = true\n[lanes.b]',
            'expected lanes.a.priority_scope to be "lane" where preemption is true, '
            'got "caller" (lanes.toml)',
            id="preemption-without-levels-by-default",
        ),
        pytest.param(
            '[lanes.ollama]\nmin_runtime = "soon"',
            "expected lanes.ollama.min_runtime to be a duration such as "
            '"90s", "5m" or "1h30m", or a number of seconds, got "soon" (lanes.toml)',
            id="runtime",
        ),
        pytest.param(
            '[defaults]\nexec_timeout = "5 min"',
            "expected defaults.exec_timeout to be a duration such as "
            '"90s", "5m" or "1h30m", or a number of seconds, got "5 min" (lanes.toml)',
            id="duration",
        ),
        pytest.param(
            '[lanes.a]\nhard_timeout = "5m"',
            "expected lanes.a.hard_timeout to be longer than exec_timeout (5m), "
            'got "5m" (lanes.toml)',
            id="limits-out-of-order",
        ),
        pytest.param(
            "[lanes.a]\nlease_ttl = 2.9",
            "expected lanes.a.lease_ttl to be at least 3s, got 2.9 (lanes.toml)",
            id="lease",
        ),
        pytest.param(
            '[lanes.a]\nrate = "60/w"',
            'expected lanes.a.rate to be a rate such as "60/m" or "100k/h", '
            'got "60/w" (lanes.toml)',
            id="rate",
        ),
        pytest.param(
            '[lanes."a b"]',
            'expected lanes."a b" to be a name of 1 to 100 bytes '
            'without whitespace, commas or any of {}[]*?, got "a b" (lanes.toml)',
            id="lane-name",
        ),
        pytest.param(
            "[lanes]\nollama = 3",
            "expected lanes.ollama to be a table, got 3 (lanes.toml)",
            id="no-table",
        ),
        pytest.param(
            "lanes = 3", "expected lanes to be a table, got 3 (lanes.toml)", id="no-table-of-tables"
        ),
        pytest.param(
            '[rules]\nmatch = "a/*"',
            "expected rules to be an array of tables: [[rules]], got a table (lanes.toml)",
            id="one-rule",
        ),
        pytest.param(
            '[[rules]]\nmatch = "a/*"', "missing key rules[0].lane (lanes.toml)", id="missing"
        ),
        pytest.param(
            '[callers."night import"]\nweight = 0',
            'expected callers."night import".weight to be a number, 0.001 to 1000, '
            "got 0 (lanes.toml)",
            id="weight",
        ),
        pytest.param(
            '[store]\ndurability = "replicas:0"',
            'expected store.durability to be "store", "aof" or "replicas:N", '
            'got "replicas:0" (lanes.toml)',
            id="durability",
        ),
        pytest.param(
            '[aliases]\n"a/b" = "m/x"',
            'expected aliases."a/b" to be a word without / and comma, got "a/b" (lanes.toml)',
            id="alias",
        ),
        pytest.param(
            "[aliases]\nquick = 7",
            'expected aliases.quick to be models and aliases, such as "ollama/llama3.1:8b,'
            'openai/gpt-5-mini", got 7 (lanes.toml)',
            id="no-spec",
        ),
        pytest.param(
            '[aliases]\nquick = "m/x,"',
            'aliases.quick: expected model to be "provider/model", such as "openai/gpt-5-mini", '
            "got 'm/x,' (element 2 is empty) (lanes.toml)",
            id="spec",
        ),
        pytest.param(
            '[aliases]\nquick = "m/x,fats"\nfast = "m/y"',
            'aliases.quick: expected model to be "provider/model", such as "openai/gpt-5-mini", '
            "or an alias, got 'fats'; did you mean fast? (lanes.toml)",
            id="unknown-alias",
        ),
        pytest.param(
            '[aliases]\nquick = "m/x,fast"\nfast = "quick"',
            "aliases.quick: aliases in a circle: quick -> fast -> quick (lanes.toml)",
            id="alias-circle",
        ),
        pytest.param(
            '[health]\nbase_cooldown = "10s"\nmax_cooldown = "5s"',
            "expected health.max_cooldown to be at least base_cooldown (10s), "
            'got "5s" (lanes.toml)',
            id="cooldown",
        ),
        pytest.param(
            "[health]\nfailure_threshold = 0",
            "expected health.failure_threshold to be a positive integer, got 0 (lanes.toml)",
            id="threshold",
        ),
        pytest.param(
            '[health]\non_all_benched = "fail"',
            'expected health.on_all_benched to be "wait", "raise" or "force", got "fail" '
            "(lanes.toml)",
            id="all-benched",
        ),
        pytest.param(
            'enabled = "yes"',
            'expected enabled to be true or false, got "yes" (lanes.toml)',
            id="bool",
        ),
    ],
)
def test_a_mistake_is_told_with_its_key_and_its_file(complaints, text, complaint):
    assert complaints(text) == [complaint]


def test_all_mistakes_are_told_at_once(complaints):
    told = complaints('enabld = true\n[store]\ndurability = ""\n[lanes.a]\nmax_leases = -1')

    assert sorted(told) == [
        "expected lanes.a.max_leases to be a positive integer, got -1 (lanes.toml)",
        'expected store.durability to be "store", "aof" or "replicas:N", got "" (lanes.toml)',
        "unknown key enabld; did you mean enabled? (lanes.toml)",
    ]


def test_a_mistake_in_the_defaults_is_told_once_and_not_for_each_lane(complaints):
    told = complaints("[defaults]\nmax_leases = 0\nx = 1\n[lanes.a]\n[lanes.b]\nburst = 0")

    assert sorted(line.split()[1] if "expected" in line else line.split()[2] for line in told) == [
        "defaults.max_leases",
        "defaults.x",
        "lanes.b.burst",
    ]


def test_a_long_value_is_cut(complaints):
    [line] = complaints(f'[lanes.a]\npolicy = "{"x" * 10_000}"')

    assert len(line) < 160


@pytest.mark.parametrize(
    ("text", "place"),
    [
        pytest.param("[store]\nurl redis", "at line 2, column 5", id="in-a-line"),
        pytest.param('[store]\nurl = "redis', "at line 2", id="at-the-end"),
    ],
)
def test_broken_toml_is_told_in_one_line_with_its_place(complaints, text, place):
    [line] = complaints(text)

    assert line.startswith("lanes.toml is not valid TOML: ")
    assert place in line


def test_a_file_in_another_encoding_is_an_error(tmp_path):
    (tmp_path / "lanes.toml").write_bytes("# für\n".encode("latin-1"))

    with pytest.raises(ConfigError, match=r"lanes.toml is not UTF-8 \(byte 3\)"):
        Settings.load(tmp_path / "lanes.toml", {})


def test_a_byte_order_mark_does_no_harm(load):
    assert load("\ufeffenabled = false").enabled is False


def test_two_lanes_cannot_have_one_queue(complaints):
    told = complaints('[lanes."b.c"]\nqueue_prefix = "a."\n[lanes.c]\nqueue_prefix = "a.b."')

    assert told == ["lanes b.c and c have the same queue, a.b.c (lanes.toml)"]


# The URL is a secret


@pytest.mark.parametrize(
    "show", [repr, str, lambda s: repr(s.model_dump()), lambda s: s.model_dump_json()]
)
def test_a_url_is_never_shown(load, show):
    settings = load('[store]\nurl = "redis://:s3cret@localhost/0"')

    assert "s3cret" not in show(settings)


@pytest.mark.parametrize(
    "url", ['":s3cret@localhost"', '["redis://:s3cret@localhost"]', '{ a = "s3cret" }'], ids=str
)
def test_a_wrong_url_is_not_shown_either(complaints, url):
    [told] = complaints(f"[store]\nurl = {url}")

    assert told == (
        "expected store.url to be a URL: redis://localhost:6379/0, "
        "got a value that is not shown (lanes.toml)"
    )


def test_pydantics_own_errors_do_not_show_it():
    with pytest.raises(ValidationError) as caught:
        Settings(store={"url": "s3cret"})

    assert "s3cret" not in str(caught.value)


# Times and rates


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90),
        ("5m", 300),
        ("1h30m", 5400),
        ("250ms", 0.25),
        ("1d", 86_400),
        ("1.5h", 5400),
        ("1m0.5s", 60.5),
        (90, 90),
        (0.5, 0.5),
    ],
    ids=str,
)
def test_durations_are_read(text, seconds):
    assert duration_s(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text",
    [
        *("", "5", "m", "5 m", "5M", "-5m", "5m ", "0s", "1h30", "1e3s", "٣s"),
        *(0, -1, True, None, float("nan"), float("inf"), [5], 1e300, 10**400, "99999999999d"),
    ],
    ids=lambda text: str(text)[:20],
)
def test_what_is_no_duration_is_refused(text):
    with pytest.raises(ValueError):  # noqa: PT011 - the message is the complaint's business
        duration_s(text)


@pytest.mark.parametrize("text", ["90s", "1m30s", "1h", "250ms", "1d2h", "2s500ms"])
def test_a_duration_that_is_written_can_be_read(text):
    assert duration_s(written(duration_s(text))) == duration_s(text)


@pytest.mark.parametrize(
    ("rate", "count", "period_ms"),
    [
        ("60/m", 60, 60_000),
        ("5/s", 5, 1_000),
        ("100k/h", 100_000, 3_600_000),
        ("2M/d", 2_000_000, 86_400_000),
        ("0.5/s", 0.5, 1_000),
    ],
    ids=str,
)
def test_rates_are_read(rate, count, period_ms):
    lane = LaneSettings(rate=rate, tokens=rate)

    assert lane.rate == Bucket(count, period_ms, 1)
    assert lane.tokens == Bucket(count, period_ms, max(1, count))


@pytest.mark.parametrize(
    "rate", ["60", "60/", "/m", "0/m", "-1/m", "60/min", "60K/m", "9999999M/s", 60, True], ids=str
)
def test_what_is_no_rate_is_refused(rate):
    with pytest.raises(ValidationError):
        LaneSettings(rate=rate)


def test_a_burst_counts_calls_and_leaves_tokens_alone():
    lane = LaneSettings(rate="60/m", tokens="100k/m", burst=10)

    assert (lane.rate.burst, lane.tokens.burst) == (10, 100_000)


# Lanes


def test_a_lane_that_nothing_names_has_the_defaults(load):
    settings = load("[defaults]\nmax_concurrent = 7")

    assert settings.lane("brand-new") == settings.defaults


def test_a_lane_keeps_the_defaults_that_it_does_not_change(load):
    lane = load('[defaults]\nmax_leases = 9\npolicy = "fifo"\n[lanes.a]\npolicy = "fair"').lane("a")

    assert (lane.max_leases, lane.policy) == (9, Policy.FAIR)


def test_a_hard_timeout_follows_the_exec_timeout_that_a_lane_changes(load):
    text = '[defaults]\nhard_timeout = "6m"\n[lanes.a]\nexec_timeout = "30m"\n[lanes.b]'
    settings = load(text)

    assert settings.lane("a").hard_timeout_s == 31 * 60
    assert settings.lane("b").hard_timeout_s == 6 * 60


def test_tokens_of_less_than_one_in_a_period_let_one_pass_at_once(load):
    settings = load('[lanes.a]\ntokens = "0.5/m"')

    check_rules(settings.rules_of("a"))
    assert settings.lane("a").tokens == Bucket(0.5, 60_000, 1)


def test_a_lane_can_take_an_inherited_rate_away(load):
    settings = load('[defaults]\nrate = "1/s"\n[lanes.a]\nrate = ""\n[lanes.b]\nburst = 5')

    assert settings.lane("a").rate is None
    assert settings.lane("b").rate == Bucket(1, 1000, 5)


def test_models_inherit_as_tables_do():
    settings = Settings(
        defaults=LaneSettings(max_leases=9, rate="1/s"),
        lanes={"a": LaneSettings(burst=5), "b*": LaneSettings(exec_timeout="1h")},
    )

    assert (settings.lane("a").max_leases, settings.lane("a").rate.burst) == (9, 5)
    assert (settings.lane("b1").max_leases, settings.lane("b1").hard_timeout_s) == (9, 3660)


def test_a_glob_table_is_for_the_lanes_that_no_table_names(load):
    settings = load('[lanes."f*"]\nmax_leases = 1\n[lanes.f2]\n[lanes."*3"]\nmax_leases = 3')

    assert [settings.lane(n).max_leases for n in ("f1", "f2", "f3", "g3", "g")] == [1, 5, 1, 3, 5]
    assert set(settings.lanes) == {"f2"}


@pytest.mark.parametrize(
    "name", ["", "a b", "a\n", "a{b}", "a*", "a,b", "é" * 51, "\x7f"], ids=ascii
)
def test_what_cannot_be_a_lanes_name_is_refused(name):
    with pytest.raises(ConfigError, match="expected a lane to have a name of 1 to 100 bytes"):
        Settings().lane(name)


def test_the_store_is_told_the_rules_of_a_lane(load):
    settings = load("""
        [defaults]
        lease_ttl = "4.5s"
        [lanes.a]
        max_concurrent = 2
        tokens = "1k/m"
        [callers.""]
        weight = 0.5
        rate = "6/h"
    """)

    assert settings.rules_of("a") == LaneRules(
        max_concurrent=2,
        lease_ttl_ms=4500,
        tokens=Bucket(1000, 60_000, 1000),
        callers={"": CallerRules(0.5, Bucket(6, 3_600_000, 1))},
    )


# Rules


def test_the_first_rule_that_matches_wins():
    rules = (
        Rule(match="a/big*", lane="one"),
        Rule(match="a/*", lane="two"),
        Rule(match="*", lane="z"),
    )
    settings = Settings(rules=rules)

    lanes = [settings.lane_for(model).lane for model in ("a/big-1", "a/small", "b/x")]

    assert lanes == ["one", "two", "z"]


def test_upper_and_lower_case_differ():
    settings = Settings(rules=(Rule(match="OpenAI/*", lane="one"),))

    assert settings.lane_for("openai/x").rule is None


@pytest.mark.parametrize(
    ("model", "lane"),
    [
        ("openai/gpt-5-mini", "openai"),
        ("openai/a/b", "openai"),
        ("a/x,b/y", "a"),
        (" a/x , b/y", "a"),
        ("gpt-5-mini", "default"),
        ("/x", "default"),
        ("", "default"),
        ("my box{1}/x", "my-box-1-"),
        ("é" * 60 + "/x", "é" * 50),
    ],
    ids=ascii,
)
def test_without_a_rule_the_provider_names_the_lane(model, lane):
    match = Settings().lane_for(model)

    assert (match.lane, match.rule) == (lane, None)
    assert Settings().lane(match.lane) == LaneSettings()


# Queues


@pytest.mark.parametrize("lane", ["a", "b", "f1", "unnamed", "with.dots"])
def test_a_lane_and_its_queue_find_each_other(load, lane):
    settings = load("""
        [lanes.a]
        [lanes.b]
        queue_prefix = "big."
        [lanes."f*"]
        queue_prefix = "hosts."
    """)

    assert settings.lane_of_queue(settings.queue(lane)) == lane


@pytest.mark.parametrize(
    "queue", ["celery", "lanes.", "lanes.b", "lanes.a b", "big.a", "hosts.a", ""]
)
def test_a_plain_queue_is_no_lanes(load, queue):
    settings = load('[lanes.b]\nqueue_prefix = "big."\n[lanes."f*"]\nqueue_prefix = "hosts."')

    assert settings.lane_of_queue(queue) is None


# Settings are values


def test_settings_cannot_be_changed():
    with pytest.raises(ValidationError):
        Settings().enabled = False


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda s: pickle.loads(pickle.dumps(s))])
def test_settings_can_be_copied_after_use(copied):
    settings = Settings.load(SHIPPED, {})
    settings.lane_for("a/b"), settings.lane_of_queue("lanes.a")

    assert copied(settings) == Settings.load(SHIPPED, {})


@pytest.mark.parametrize("weight", [0, -1, 1001, float("nan"), float("inf"), "1", True], ids=str)
def test_a_weight_is_a_number_in_bounds(weight):
    with pytest.raises(ValidationError):
        CallerSettings(weight=weight)


def test_callers_are_as_many_as_a_server_can_take_in_at_once():
    named = {f"user {number}": {} for number in range(MAX_CALLERS + 1)}

    with pytest.raises(ConfigError, match="expected callers to be a table of up to 5000 callers"):
        Settings.parse({"callers": named})


def test_a_callers_name_may_be_any_text_of_256_bytes():
    Settings(callers={"": CallerSettings(), "ü{}* ,\n" * 32: CallerSettings()})

    with pytest.raises(ValidationError, match="up to 256 bytes"):
        Settings(callers={"ü" * 129: CallerSettings()})


@pytest.mark.parametrize(
    ("said", "seconds"), [("0", 0), ('"0s"', 0), ("-1", 30), ('"2m"', 120), ("0.25", 0.25)]
)
def test_how_long_a_call_is_left_alone(tmp_path, said, seconds):
    file = tmp_path / "lanes.toml"
    file.write_text(f"lanes.a = {{ min_runtime = {said} }}")
    settings = Settings.load(file)

    assert settings.lane("a").min_runtime_s == seconds


def test_preemption_brings_levels_and_its_rules_to_the_store():
    lane = {"preemption": True, "min_runtime": 0, "on_preempt": "fail", "max_preemptions": 2}
    settings = Settings.parse({"lanes": {"a": lane}})

    assert settings.lane("a").priority_scope is Scope.LANE
    assert settings.rules_of("a").preemption == Preemption(0, 2, fails=True)
    assert settings.rules_of("other").preemption is None
    assert settings.preempts
    assert not Settings().preempts
