"""The commands, as a person or a script uses them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import uuid
from io import StringIO
from pathlib import Path
from types import SimpleNamespace

import pytest
from celery import Celery
from celery.bin.base import CLIContext
from click.testing import CliRunner
from rich.console import Console

from celery_lanes import Lanes, Settings
from celery_lanes.callinfo import CallInfo
from celery_lanes.cli import callers, main, status
from celery_lanes.cli import lanes as lanes_group
from celery_lanes.cli.status import to_json
from celery_lanes.config.durations import rounded
from celery_lanes.envelope import Envelope
from celery_lanes.errors import StoreUnavailable
from celery_lanes.store.attempts import Outcome, Release
from celery_lanes.store.base import Snapshot
from celery_lanes.store.calls import Call
from celery_lanes.store.checks import MAX_LETTERS
from celery_lanes.store.quota import Quota
from celery_lanes.store.rules import Bucket, LaneRules, Policy
from celery_lanes.testing import embedded, rabbitmq
from celery_lanes.testing.embedded import EmbeddedValkey

ROOT = Path(__file__).parents[2]

CONFIG = {
    "lanes": {
        "ollama": {"max_concurrent": 3},
        "gpu-imagine": {"policy": "fifo", "max_concurrent": 1},
        "foreman*": {"exec_timeout": "30m"},
    },
    "rules": [
        {"match": "ollama-cloud/*", "lane": "ollama"},
        {"match": "ollama/*", "lane": "ollama"},
    ],
}


class Shell:
    """Runs ``celery -A shop lanes ...`` in this process."""

    def __init__(self, app):
        self.app = app

    def __call__(self, *words):
        obj = CLIContext(app=self.app, no_color=True, workdir=None)
        return CliRunner().invoke(lanes_group, list(words), obj=obj)

    @property
    def store(self):
        return self.app.lanes.parts.store


def make_shell(store_url, **more):
    app = Celery("shop", broker="memory://", backend="cache+memory://", set_as_current=False)
    Lanes(app, Settings.parse({"store": {"url": store_url}, **CONFIG, **more}))
    return Shell(app)


@pytest.fixture
def valkey():
    with EmbeddedValkey() as server:
        yield server


@pytest.fixture
def shell(valkey):
    shell = make_shell(valkey.url(2))
    yield shell
    shell.store.disconnect()
    shell.app.close()


def park(shell, lane, *ids, caller="alice"):
    calls = [Call(id=i, task_id=i, task="shop.summarise", caller=caller) for i in ids]
    shell.store.admit(lane, calls, policy=Policy.FAIR)


class SharedLane:
    """The lane ollama, two calls of which may run."""

    def __init__(self, shell):
        self.store, self.tokens = shell.store, {}
        self.store.configure("ollama", LaneRules(max_concurrent=2))

    def start(self, name, *, task="shop.summarise", **fields):
        call = Call(id=name, task_id=name, task=task, **fields)
        self.store.admit("ollama", [call], policy=Policy.FAIR)
        ask = {"worker": "celery@one/1f", "request": len(self.tokens) + 1, "want": 1}
        (grant,) = self.store.next("ollama", **ask).grants
        self.tokens[name] = grant.token


def message_of(**fields):
    return Envelope(body="[]", content_type=None, content_encoding=None, **fields).pack()


def test_status_lists_configured_and_used_lanes(shell):
    park(shell, "openai", "a", "b")

    shown = shell("status")

    assert shown.exit_code == 0
    rows = {line.split()[0]: line.split() for line in shown.output.splitlines() if line.strip()}
    assert {"ollama", "gpu-imagine", "openai"} <= set(rows)
    assert rows["ollama"][1:4] == ["3", "0", "0"]
    assert rows["openai"][1:4] == ["4", "0", "2"]
    assert "\x1b" not in shown.output


def test_status_shows_streams_that_run_on_without_a_slot_if_there_are_any(shell):
    park(shell, "ollama", "a")
    shell.store.configure("ollama", LaneRules(max_concurrent=1))
    (grant,) = shell.store.next("ollama", worker="w", request=1, want=1).grants
    assert "established" not in shell("status").output

    shell.store.establish("ollama", call=grant.call, token=grant.token)

    header, *rows = (line.split() for line in shell("status").output.splitlines() if line.strip())
    ollama = next(row for row in rows if row[0] == "ollama")
    assert ollama[header.index("running")] == "0"
    assert ollama[header.index("established")] == "1"


def test_running_shows_whose_calls_run_and_who_has_them(shell):
    assert shell("running", "ollama").output == "ollama: nothing runs\n"
    lane = SharedLane(shell)
    lane.start("stream", caller="ann")
    lane.store.establish("ollama", call="stream", token=lane.tokens["stream"])
    lane.start("odd", caller="", task="", envelope=b"no message")
    info = CallInfo(caller="bob", run_id="run-7", model="ollama/x").to_header()
    lane.start("told", caller="bob", envelope=message_of(headers={"lanes": info}))

    shown = shell("running", "ollama").output
    few = shell("running", "ollama", "--limit", "1").output
    told = json.loads(shell("running", "ollama", "--json").output)

    header, _, *rows = (
        re.split(r"  +", line.strip()) for line in shown.splitlines() if line.strip()
    )
    by_caller = {row[0]: row for row in rows}
    assert header == ["caller", "run", "task", "model", "worker", "for", "state", "task id"]
    assert by_caller["ann"][-2:] == ["no slot", "stream"]
    assert by_caller["(none)"][1] == "(slot)"
    assert by_caller["bob"][:5] == ["bob", "run-7", "shop.summarise", "ollama/x", "celery@one"]
    assert few.endswith(" and 1 more with a slot\n")
    (bobs,) = (call for call in told if call["caller"] == "bob")
    assert (bobs["worker"], bobs["has_slot"], bobs["attempt"]) == ("celery@one", True, 1)


def test_status_json_is_a_list_of_objects_with_units_in_their_names(shell):
    park(shell, "ollama", "a")
    park(shell, "ollama", "b", caller="bob")

    shown = json.loads(shell("status", "--json").output)

    ollama = next(lane for lane in shown if lane["lane"] == "ollama")
    assert (ollama["max_concurrent"], ollama["waiting"], ollama["callers_waiting"]) == (3, 2, 2)
    assert ollama["oldest_wait_ms"] >= 0


def test_a_snapshot_is_written_out_in_full():
    snapshot = Snapshot(
        lane="größe", max_concurrent=2, paused=True, running=1, established=7, waiting=2, delayed=3,
        closing=4, dead=5, callers_waiting=2, oldest_wait_ms=1500, done_last_minute=6,
        moved_last_minute=7, workers=1,
        rate=None, tokens=None, effective=1, provider_wait_ms=2000,
        quota=Quota("requests", 12, 60), quota_age_ms=4000,
    )  # fmt: skip

    written = json.loads(to_json([snapshot]))

    quota = {"name": "requests", "left": 12, "of": 60, "resets_ms": None}
    fields = {name: getattr(snapshot, name) for name in Snapshot.__slots__}
    assert written == [{**fields, "quota": quota}]


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0.0s"), (0.44, "0.4s"), (12.4, "12s"), (59.6, "1m 0s"), (7500, "2h 5m")],
    ids=str,
)
def test_a_wait_is_written_as_people_read_it(seconds, words):
    assert rounded(seconds) == words


@pytest.mark.parametrize(
    ("model", "lane", "reason"),
    [
        ("ollama/llama3.1:8b", "ollama", 'rule 2 of 2: match = "ollama/*"'),
        ("ollama-cloud/x", "ollama", 'rule 1 of 2: match = "ollama-cloud/*"'),
        ("openai/gpt-5-mini", "openai", "the provider's name; settings of [defaults]"),
        ("foreman-m5/x", "foreman-m5", """the provider's name; settings of [lanes."foreman*"]"""),
    ],
    ids=["second-rule", "first-rule", "provider", "family"],
)
def test_route_names_lane_queue_and_rule(shell, model, lane, reason):
    shown = shell("route", model)

    assert shown.exit_code == 0
    assert f"lane   {lane}\nqueue  lanes.{lane}\n" in shown.output
    assert reason in shown.output


def test_route_of_an_alias_names_its_first_model(shell):
    shell.app.lanes.registry.register_alias("quick", "ollama/llama3.1:8b,openai/gpt")

    shown = shell("route", "quick")

    assert "lane   ollama\n" in shown.output
    assert "alias of ollama/llama3.1:8b; rule 2 of 2" in shown.output
    assert "then   openai/gpt: lane openai, queue lanes.openai\n" in shown.output
    assert "note   lane 'openai' is named in no settings\n" in shown.output


def test_route_asks_whether_another_provider_was_meant(shell):
    shown = shell("route", "ollama/x,ollam/x")

    assert "then   ollam/x: lane ollam, queue lanes.ollam\n" in shown.output
    assert "note   lane 'ollam' is named in no settings (did you mean ollama?)\n" in shown.output


def test_route_of_a_task_that_names_its_lane(shell):
    @shell.app.task(name="shop.imagine", shared=False, lane="gpu-imagine")
    def imagine(prompt): ...

    shown = shell("route", "ollama/x", "--task", "shop.imagine")

    assert "lane   gpu-imagine" in shown.output
    assert "task shop.imagine names its lane" in shown.output


def test_route_of_what_no_lane_serves_is_refused(shell):
    shown = shell("route", "llama3")

    assert (shown.exit_code, shown.stdout) == (1, "")
    assert (
        "'llama3' is no provider/model, and no alias in [aliases], so it has no lane; a task with"
        " a model_arg, such as generate, takes it to lane default" in shown.stderr
    )


def test_route_of_an_unknown_task_is_a_usage_error(shell):
    shown = shell("route", "ollama/x", "--task", "shop.nope")

    assert shown.exit_code == 2
    assert "the app has no task 'shop.nope'" in shown.stderr
    assert (
        "did you mean celery_lanes.generate?"
        in shell("route", "x/y", "--task", "lanes.generate").stderr
    )


def test_status_says_what_is_not_as_in_the_file_and_all_that_holds_a_lane_up(shell):
    park(shell, "ollama", "a")
    shell("set", "ollama", "--max", "7", "--rate", "60/m", "--tokens", "100k/h")
    shell("pause", "ollama")

    row = next(line for line in shell("status").output.splitlines() if "ollama" in line)

    assert "60/m, 100k/h tokens" in row
    assert row.rstrip().endswith("no worker; paused; the file's cap is 3")


@pytest.mark.parametrize("columns", [80, 300])
def test_no_state_is_lost_on_a_narrow_terminal(shell, columns):
    park(shell, "ollama", "a")
    shell("set", "ollama", "--max", "7", "--rate", "60/m")
    lanes = shell.app.lanes
    console = Console(width=columns, file=StringIO())

    status.show(console, found := status.read(lanes), status.caps(lanes, found))

    shown = console.file.getvalue()
    is_in_row = "the file's cap" in next(row for row in shown.splitlines() if " 60/m" in row)
    assert "no worker; the file's cap is 3" in shown
    assert is_in_row == (columns > 80)
    assert max(map(len, shown.splitlines())) <= columns


def test_set_changes_the_cap_and_default_takes_it_back(shell):
    changed = shell("set", "ollama", "--max", "7")
    cap = shell.store.snapshot("ollama").max_concurrent
    back = shell("set", "ollama", "--max-concurrent", "default")

    assert changed.output == "ollama: at most 7 at once (configured: 3)\n"
    assert cap == 7
    assert back.output == "ollama: at most 3 at once, as configured\n"
    assert shell.store.snapshot("ollama").max_concurrent in {None, 3}


def test_set_changes_a_lanes_own_limits(shell):
    changed = shell("set", "ollama", "--rate", "60/m", "--tokens", "100k/h")
    now = shell.store.snapshot("ollama")
    back = shell("set", "ollama", "--rate", "default", "--tokens", "none")

    assert changed.output == "ollama: rate 60/m\nollama: tokens 100k/h\n"
    assert (now.rate, now.tokens) == (Bucket(60, 60_000, 1), Bucket(1e5, 3_600_000, 1e5))
    assert back.output == "ollama: rate as configured\nollama: tokens none\n"
    assert shell.store.snapshot("ollama").rate is None


def test_a_caller_is_steered_shown_and_given_back(shell):
    park(shell, "ollama", "a", "b")

    changed = shell("set", "ollama", "--caller", "alice", "--weight", "3", "--rate", "60/m")
    paused = shell("pause", "ollama", "--caller", "alice")
    row = shell("callers", "ollama").output.strip().splitlines()[-1]
    (told,) = json.loads(shell("callers", "ollama", "--json").output)
    resumed = shell("resume", "ollama", "--caller", "alice")
    back = shell("set", "ollama", "--caller", "alice", "--weight", "default", "--rate", "default")

    assert changed.output == "ollama: alice weight 3\nollama: alice rate 60/m\n"
    assert paused.output == "ollama: alice paused; 2 waiting\n"
    assert row.split() == ["alice", "3", "60/m", "2", "weight,", "rate,", "paused", "paused"]
    assert (told["caller"], told["weight"], told["paused"]) == ("alice", 3, True)
    assert told["rate"] == {"count": 60, "period_ms": 60_000, "burst": 1}
    assert resumed.output == "ollama: alice resumed\n"
    assert back.output.count("as configured") == 2
    (told,) = json.loads(shell("callers", "ollama", "--json").output)
    assert (told["waiting"], told["live"]) == (2, [])


def test_callers_shows_who_has_most_waiting_first_and_says_how_many_are_left_out(
    shell, monkeypatch
):
    monkeypatch.setattr(callers, "MOST_ROWS", 2)
    nobody = shell("callers", "gpu-imagine").output
    park(shell, "ollama", "a", caller="bob")
    park(shell, "ollama", "b", "c", "d", caller="")
    park(shell, "ollama", "e", "f")

    *_, first, second, rest = filter(str.strip, shell("callers", "ollama").output.splitlines())

    assert "no caller waits by name" in nobody
    assert [row.split()[::3] for row in (first, second)] == [["(none)", "3"], ["alice", "2"]]
    assert rest == " and 1 more with 1 waiting: --json"


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--caller", "alice"],
        ["--caller", "alice", "--max", "2"],
        ["--caller", "alice", "--weight", "0"],
        ["--weight", "2"],
        ["--rate", "fast"],
        ["--rate", "9999999M/s"],
        ["--tokens", "9999999M/s"],
    ],
    ids=" ".join,
)
def test_what_set_cannot_do_is_a_usage_error(shell, words):
    shown = shell("set", "ollama", *words)

    assert shown.exit_code == 2
    assert "expected" in shown.stderr
    assert shell.store.callers("ollama") == []


def test_a_caller_of_a_fifo_lane_is_refused(shell):
    shown = shell("pause", "gpu-imagine", "--caller", "alice")

    assert shown.exit_code == 2
    assert "gpu-imagine is fifo: all its callers share one queue" in shown.stderr


@pytest.mark.parametrize("slots", ["0", "-1", "many", "1.5", "1000001", "²"])
def test_set_refuses_what_is_no_number_of_slots(shell, slots):
    shown = shell("set", "ollama", f"--max={slots}")

    assert shown.exit_code == 2
    assert 'expected a positive integer or "default"' in shown.stderr


def test_status_shows_what_an_adaptive_lane_has_learned(shell):
    shell.store.configure("ollama", LaneRules(max_concurrent=8, adaptive=True))
    park(shell, "ollama", "a")
    (grant,) = shell.store.next("ollama", worker="w1", request=1, want=1).grants
    shell.store.report("ollama", call=grant.call, token=grant.token, wait_ms=90_400)

    shown = shell("status").output
    told = next(lane for lane in json.loads(shell("status", "--json").output) if lane["running"])

    row = next(line for line in shown.splitlines() if "ollama" in line)
    assert row.split()[1] == "4/8"
    assert "asked to wait 1m 30s" in row or "asked to wait 1m 29s" in row
    assert (told["max_concurrent"], told["effective"]) == (8, 4)
    assert 80_000 < told["provider_wait_ms"] <= 90_400


def test_status_shows_what_a_provider_said_last_of_its_limits(shell):
    shell.store.configure("ollama", LaneRules(max_concurrent=8, adaptive=True))
    park(shell, "ollama", "a")
    (grant,) = shell.store.next("ollama", worker="w1", request=1, want=1).grants
    left = Quota("requests", 12, of=60)
    shell.store.report("ollama", call=grant.call, token=grant.token, quota=left)

    assert re.search(r"12 of 60 requests left, [\d.]+s ago", shell("status").output)


def test_pause_and_resume(shell):
    park(shell, "ollama", "a")

    paused = shell("pause", "ollama")
    assert "starts  when the lane is resumed\n" in shell("where", "a").output
    is_paused = shell.store.snapshot("ollama").paused
    table = shell("status").output
    resumed = shell("resume", "ollama")

    assert paused.output == "ollama: paused; 0 still running, 1 waiting\n"
    assert is_paused
    assert "paused" in table
    assert resumed.output == "ollama: resumed; 1 waiting\n"
    assert not shell.store.snapshot("ollama").paused


@pytest.mark.parametrize(
    "words",
    [("set", "olama", "--max", "2"), ("pause", "olama"), ("resume", "olama")],
    ids=["set", "pause", "resume"],
)
def test_an_unknown_lane_is_a_usage_error_with_the_nearest_names(shell, words):
    shown = shell(*words)

    assert shown.exit_code == 2
    assert shown.stderr == "celery lanes: there is no lane 'olama'; did you mean ollama?\n"
    assert "olama" not in shell.store.lanes()


def test_a_lane_of_a_family_is_known_before_its_first_call(shell):
    assert shell("pause", "foreman-m5").exit_code == 0


def test_cancel_takes_a_waiting_call_off_its_lane(shell):
    park(shell, "ollama", "a", "b")

    shown = shell("cancel", "a")

    assert shown.output == "ollama: cancelled a\n"
    assert shell.store.snapshot("ollama").waiting == 1


def test_cancel_takes_all_that_waits_of_a_caller_off_the_lanes(shell):
    calls = [Call(id=n, task_id=n, task="shop.ask", caller="ann") for n in "ab"]
    for lane in ("ollama", "openai"):
        shell.store.admit(lane, calls, policy=Policy.FAIR)
    park(shell, "ollama", "c")

    shown = shell("cancel", "--caller", "ann")

    assert shown.output == ("ollama: cancelled 2 calls of ann\nopenai: cancelled 2 calls of ann\n")
    assert shell.store.snapshot("ollama").waiting == 1
    again = shell("cancel", "--caller", "ann")  # after a lost answer, say
    assert (again.exit_code, again.output) == (0, "nothing of 'ann' waits in any lane\n")


def test_cancel_takes_what_has_no_caller_only_where_that_is_said(shell):
    park(shell, "ollama", "a", "b", caller="")

    empty = shell("cancel", "--caller", "")  # a variable that is not set, say
    assert empty.exit_code == 2
    assert shell.store.snapshot("ollama").waiting == 2

    assert shell("cancel", "--anonymous").output == "ollama: cancelled 2 calls of no caller\n"
    assert shell("cancel", "--anonymous").output == "nothing without a caller waits in any lane\n"


@pytest.mark.parametrize(
    "words",
    [(), ("a", "--caller", "alice"), ("a", "--anonymous"), ("--caller", "alice", "--anonymous")],
    ids=["none", "both", "id-of-nobody", "somebody-and-nobody"],
)
def test_cancel_wants_a_task_id_or_a_caller(shell, words):
    shown = shell("cancel", *words)

    assert shown.exit_code == 2
    assert "expected a TASK_ID, --caller NAME, or --anonymous" in shown.stderr


def test_cancel_of_a_call_that_runs_says_what_ends_it(shell, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["celery", "-A", "shop", "lanes", "cancel", "a"])
    shell.store.configure("ollama", LaneRules(max_concurrent=1))
    park(shell, "ollama", "a")
    shell.store.next("ollama", worker="w", request=1, want=1)

    shown = shell("cancel", "a")

    assert shown.exit_code == 1
    assert "celery -A shop lanes stop a;" in shown.stderr
    assert "celery -A shop control terminate SIGTERM a" in shown.stderr


def test_stop_ends_a_call_and_refuses_what_no_lane_has(shell):
    park(shell, "ollama", "a")

    shown = shell("stop", "a")

    assert (shown.exit_code, shell.store.snapshot("ollama").waiting) == (0, 0)
    assert "a: told to end" in shown.output
    assert shell("stop", "nope").exit_code == 1


def test_cancel_of_what_does_not_wait_is_refused(shell):
    park(shell, "ollama", "a")

    shown = shell("cancel", "b")

    assert (shown.exit_code, shown.stdout) == (1, "")
    assert "b waits in no lane" in shown.stderr


def test_where_says_place_start_and_reason_of_a_waiting_call(shell):
    shell.store.configure("ollama", LaneRules(max_concurrent=1))
    park(shell, "ollama", "n1", "n2", caller="bob")
    park(shell, "ollama", "n3")
    shell.store.next("ollama", worker="w", request=1, want=1)

    shown = shell("where", "n2")

    why = "the only slot is busy, and other callers have their share"
    assert shown.exit_code == 0
    assert shown.output.splitlines() == [
        "lane    ollama",
        "place   2",
        "ahead   0 own, 1 of other callers",
        "starts  nobody can tell",
        f"why     {why}",
    ]


def test_where_of_a_call_that_runs_is_its_lane_and_no_place(shell):
    shell.store.configure("ollama", LaneRules(max_concurrent=1))
    park(shell, "ollama", "n1")
    shell.store.next("ollama", worker="w", request=1, want=1)

    assert shell("where", "n1").output == "lane    ollama\nwhy     it runs\n"


def test_where_json_is_an_object_with_units_in_its_names(shell):
    shell.store.configure("ollama", LaneRules(max_concurrent=1))
    shell.store.next("ollama", worker="w", request=1, want=0)
    park(shell, "ollama", "n1")

    shown = json.loads(shell("where", "n1", "--json").output)

    assert shown == {
        "place": 1,
        "lane": "ollama",
        "own_ahead": 0,
        "others_ahead": 0,
        "is_at_least": False,
        "eta_s": [0.0, 0.0],
        "reason": "nothing",
        "explanation": "ollama: a slot is free for it; it starts as soon as a worker has room",
    }


def test_where_of_what_is_in_no_lane_is_refused(shell):
    park(shell, "ollama", "n1")

    shown = shell("where", "n2")

    assert (shown.exit_code, shown.stdout) == (1, "")
    assert shown.stderr == (
        "celery lanes: n2 is in no lane: it has ended, was never published, or is still in"
        " the broker\n"
    )


def test_health_shows_what_is_benched_and_ends_it_by_hand(shell):
    health = shell.app.lanes.health
    health.report(health.enter("ollama/llama3.1:8b", probe_s=60), "count")
    health.report(health.enter("openai/gpt-5-mini", probe_s=60), "bench_provider")

    shown = shell("health").output
    rows = {line.split()[0]: line.split()[1:] for line in shown.splitlines() if "/" in line}
    assert rows["ollama/llama3.1:8b"] == ["failing", "1", "-", "-"]
    assert rows["openai/*"][:3] == ["benched", "-", "5h"]
    shell("health", "--clear", "ollama/llama3.1:8b")
    assert "failures" not in shell("health").output
    health.report(health.enter("ollama/llama3.1:8b", probe_s=60), "count")
    (_, openai) = json.loads(shell("health", "--json").output)
    assert (openai["name"], openai["state"], openai["cooldown_s"]) == ("openai", "benched", 18000)

    assert "openai: forgotten" in shell("health", "--clear", "openai").output
    assert health.enter("openai/gpt-5-mini", probe_s=60).probes == ()
    assert shell("health", "--clear", "openai").exit_code == 1
    shell("health", "--clear", "ollama/llama3.1:8b")
    assert shell("health").output == "no LLM target has failed of late\n"


def test_dead_lists_the_dead_letters_of_a_lane(shell):
    kill(shell, Call(id="n1", task_id="t-1", task="shop.ask", caller="alice"))

    shown = shell("dead", "ollama")
    told = json.loads(shell("dead", "ollama", "--json").output)

    assert shown.output.splitlines()[1].split() == HEADS
    assert shown.output.splitlines()[3].split()[2:] == [
        "shop.ask", "t-1", "alice", "1", "lost", "its", "worker",
    ]  # fmt: skip
    assert [(row["task_id"], row["attempts"], row["reason"]) for row in told] == [
        ("t-1", 1, "lost")
    ]


@pytest.mark.parametrize("words", ["t-1", "all"])
def test_dead_retry_lets_a_call_wait_again_and_buries_its_letter(shell, words):
    kill(shell, Call(id="n1", task_id="t-1", task="shop.ask", envelope=b"as it came"))

    done, again = (shell("dead", "ollama", "--retry", words) for _ in range(2))
    words = "" if words == "all" else f" of {words}"

    assert (done.exit_code, done.output) == (0, "ollama: 1 call waits again\n")
    assert (again.exit_code, again.output) == (
        1, f"celery lanes: ollama has no dead letters{words}\n",
    )  # fmt: skip
    assert shell("dead", "ollama").output == "ollama has no dead letters\n"
    assert json.loads(shell("dead", "ollama", "--json").output) == []
    (grant,) = shell.store.next("ollama", worker="w", request=9, want=1).grants
    assert (grant.envelope, grant.attempt) == (b"as it came", 1)


def test_dead_retry_names_a_call_that_it_leaves_and_keeps_its_letter(shell):
    twice = Call(id="n1", task_id="t-1", task="shop.ask", remember=False)
    kill(shell, twice)
    kill(shell, twice)
    left = "ollama: t-1 is left as it is: it was tried again before, and is waiting\n"

    done = shell("dead", "ollama", "--retry", "all")
    again = shell("dead", "ollama", "--retry", "all")

    assert (done.exit_code, done.output) == (0, "ollama: 1 call waits again\n" + left)
    assert (again.exit_code, again.output) == (1, "celery lanes: " + left)
    assert len(json.loads(shell("dead", "ollama", "--json").output)) == 1


def test_dead_reads_and_retries_more_letters_than_one_answer_holds(shell):
    ids = [f"n{number}" for number in range(MAX_LETTERS + 2)]
    for call in ids:
        kill(shell, Call(id=call, task_id=f"t-{call}", task="shop.ask"))

    shown = json.loads(shell("dead", "ollama", "--json", "--limit", "51").output)
    one = shell("dead", "ollama", "--retry", "t-n0")
    rest = shell("dead", "ollama", "--retry", "all")

    assert (len(shown), shown[0]["task_id"]) == (51, f"t-{ids[-1]}")
    assert one.output == "ollama: 1 call waits again\n"
    assert rest.output == f"ollama: {len(ids) - 1} calls wait again\n"
    shell.store.set_max_concurrent("ollama", len(ids))
    grants = shell.store.next("ollama", worker="w", request=1, want=len(ids)).grants
    assert sorted(grant.call for grant in grants) == sorted(f"{call}.again" for call in ids)


HEADS = ["died", "task", "task", "id", "caller", "attempts", "reason"]


def kill(shell, call):
    """Have a call lose its only worker, and its failure written."""
    store = shell.store
    store.configure("ollama", LaneRules(max_concurrent=1, max_leases=1))
    store.admit("ollama", [call], policy=Policy.FAIR)
    worker = uuid.uuid4().hex
    (grant,) = store.next("ollama", worker=worker, request=1, want=1).grants
    lost = Release(grant.call, grant.token, Outcome.LOST)
    turn = store.next("ollama", worker=worker, request=2, want=0, releases=[lost], closings=1)
    store.close("ollama", call=call.id, token=turn.closings[0].token)


@pytest.mark.parametrize(
    "words",
    [("status",), ("set", "ollama", "--max", "2"), ("pause", "ollama"), ("cancel", "a")],
    ids=lambda words: words[0],
)
def test_a_store_that_is_away_is_one_line_and_exit_code_3(words):
    shown = make_shell("redis://127.0.0.1:1/0")(*words)

    assert (shown.exit_code, shown.stdout) == (3, "")
    assert shown.stderr.startswith("celery lanes: ")
    assert "; look at its server, and at [store] url" in shown.stderr
    assert shown.stderr.count("\n") == 1


def test_an_app_without_lanes_is_a_usage_error():
    shown = Shell(Celery("bare", set_as_current=False))("status")

    assert shown.exit_code == 2
    assert "the Celery app 'bare' has no lanes" in shown.stderr


def test_a_broken_file_is_a_usage_error_with_a_line_for_each_problem(tmp_path):
    file = tmp_path / "lanes.toml"
    file.write_text("[defaults]\nmax_concurrent = 0\npolicy = 'random'\n")
    app = Celery("shop", set_as_current=False)
    Lanes(app, file)

    status, check = Shell(app)("status"), Shell(app)("check")

    assert (status.exit_code, status.stderr.count("celery lanes: expected")) == (2, 2)
    assert (check.exit_code, check.output.count("error: expected")) == (1, 2)


def test_check_finds_limits_that_do_not_hold(valkey):
    shell = make_shell(valkey.url(2))

    @shell.app.task(
        name="shop.limited", shared=False, rate_limit="10/m", soft_time_limit=60, time_limit=30
    )
    def limited(model): ...

    @shell.app.task(name="shop.plain", shared=False, rate_limit="10/m")
    def plain(order): ...

    shown = shell("check", "--timeout", "0.1")

    assert shown.exit_code == 1
    assert "task shop.limited: rate_limit '10/m' does not hold in a lane" in shown.output
    assert "soft_time_limit (1m) is not shorter than time_limit (30s)" in shown.output
    assert (
        "own time limit (30s) ends a call before the exec_timeout of lane foreman*" in shown.output
    )
    assert "shop.plain" not in shown.output


def test_check_finds_a_task_whose_priority_is_none(valkey):
    shell = make_shell(valkey.url(2))

    @shell.app.task(name="shop.odd", shared=False, lane_priority="high")
    def odd(model): ...

    shown = shell("check", "--timeout", "0.1")

    assert shown.exit_code == 1
    assert "expected lane_priority of task shop.odd to be a whole number" in shown.output


def test_check_finds_a_store_that_forgets(shell):
    shown = shell("check", "--timeout", "0.1")

    warnings = [line for line in shown.output.splitlines() if "warning:" in line]
    assert any("keeps nothing on disk" in line for line in warnings)


def test_check_finds_calls_that_wait_for_nobody(shell):
    park(shell, "openai", "a", "b")

    shown = shell("check", "--timeout", "0.1")

    assert shown.exit_code == 1
    assert (
        "lane openai: 2 waiting and no worker: celery -A ... worker -Q lanes.openai" in shown.output
    )


def test_check_finds_rules_that_lead_to_a_lane_without_a_table(valkey):
    rules = [{"match": m, "lane": lane} for m, lane in (("a/*", "ollma"), ("b/*", "foreman-1"))]
    shell = make_shell(valkey.url(2), rules=rules)

    shown = shell("check", "--timeout", "0.1")

    assert 'rule 1 (match = "a/*") leads to lane ollma, which has no table' in shown.output
    assert "did you mean ollama?" in shown.output
    assert "rule 2" not in shown.output


def test_check_names_the_lanes_without_a_worker_in_one_line(valkey, monkeypatch):
    lanes = {name: {} for name in "abcde"}
    shell = make_shell(valkey.url(2), lanes=lanes, rules=[])
    answers = {"w1": [{"name": "celery"}, {"name": "lanes.a"}]}
    inspect = SimpleNamespace(active_queues=lambda: answers)
    monkeypatch.setattr(shell.app.control, "inspect", lambda **_: inspect)
    monkeypatch.setattr(sys, "argv", ["celery", "-A", "shop", "lanes", "check"])

    shown = shell("check").output

    (line,) = [line for line in shown.splitlines() if "worker" in line]
    assert "4 lanes have no worker, and nothing waits in them: b, c, d, e" in line
    assert line.endswith("to serve them: celery -A shop worker -Q lanes.b,lanes.c,lanes.d,...")


def test_check_with_warnings_alone_passes_unless_strict(shell):
    assert shell("check", "--timeout", "0.1").exit_code == 0
    assert shell("check", "--timeout", "0.1", "--strict").exit_code == 1


def test_check_finds_a_store_that_is_away_once():
    shown = make_shell("redis://127.0.0.1:1/0")("check", "--timeout", "0.1")

    assert shown.exit_code == 1
    assert shown.output.count("the lane store cannot be reached") == 1


@pytest.mark.parametrize("group", [lanes_group, main], ids=["lanes", "celery-lanes"])
def test_no_line_of_the_help_is_cut(group):
    shown = CliRunner().invoke(group, ["--help"], terminal_width=78).output  # of 80, click takes

    assert "...\n" not in shown.replace("[ARGS]...\n", "")


def test_the_help_lists_the_exit_codes(shell):
    shown = shell("--help")

    assert "Exit codes:\n    0  done\n" in shown.output


def test_celery_finds_the_commands_by_their_entry_point(valkey, tmp_path):
    (tmp_path / "shop.py").write_text(
        "from celery import Celery\nfrom celery_lanes import Lanes\n"
        f"app = Celery('shop', broker={valkey.url(0)!r})\nlanes = Lanes(app)\n"
    )
    command = [sys.executable, "-m", "celery", "-A", "shop", "lanes", "status", "--json"]

    shown = subprocess.run(
        command, cwd=tmp_path, env=_environment(), capture_output=True, text=True, timeout=30,
        check=False,
    )  # fmt: skip

    assert (shown.returncode, shown.stderr) == (0, "")
    assert json.loads(shown.stdout) == []


@pytest.mark.parametrize("word", ["version", "--version"])
def test_the_script_of_its_own_says_its_version(word):
    shown = CliRunner().invoke(main, [word])

    assert shown.exit_code == 0
    assert shown.output[0].isdigit()


@pytest.mark.parametrize("command", ["demo", "chaos"])
def test_without_a_server_to_start_there_is_one_line(command, monkeypatch):
    def nothing():
        raise StoreUnavailable("no server found: pip install it")

    monkeypatch.setattr(embedded, "find_program", nothing)

    shown = CliRunner().invoke(main, [command])

    assert (shown.exit_code, shown.stderr) == (1, "Error: no server found: pip install it\n")


def test_without_a_rabbitmq_to_start_a_line_says_what_to_install(monkeypatch):
    monkeypatch.setattr(rabbitmq.shutil, "which", lambda *_, **__: None)

    shown = CliRunner().invoke(main, ["chaos", "--broker", "rabbitmq"])

    assert shown.exit_code == 1
    assert shown.stderr.startswith("Error: no rabbitmq-server found: install RabbitMQ")
    assert shown.stderr.count("\n") == 1


def _environment():
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("CELERY")}
    return {
        **inherited,
        "PYTHONPATH": os.pathsep.join([str(ROOT), inherited.get("PYTHONPATH", "")]),
    }
