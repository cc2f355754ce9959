"""What the docs name exists: tests for the rows of their tables, files, headings."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "benchmarks/README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]
A_FILE = re.compile(r"(?<![\w./:*-])(?:[\w.*-]+(?:/[\w.*-]+)+\.(?:lua|md|py|toml|yml)|\w+\.lua)\b")
A_LINK = re.compile(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]+))?\)")

SHOWN = {
    "`delay`, `apply_async`, `send_task`, chain, group, chord, link, beat": [
        "test_every_way_in_is_routed_attributed_and_run_once",
        "test_beat_publishes_into_the_lane_in_its_entrys_name",
    ],
    "Django's `delay_on_commit`, `apply_async_on_commit`": [
        "test_a_publish_that_waits_for_a_commit_is_whose_it_was_when_it_was_asked_for",
    ],
    "an option that `apply_async` does not know": [
        "test_what_is_nearly_an_option_is_refused_before_anything_is_published",
        "test_what_is_nearly_an_option_is_a_property_of_a_plain_tasks_message_as_in_celery",
        "test_an_option_that_a_task_class_of_ones_own_takes_is_no_misspelling",
    ],
    "`map`, `starmap`, `chunks`": ["test_a_chunk_is_no_lanes_call_unless_it_says_so"],
    "`task_create_missing_queues = False`": [
        "test_a_lane_without_a_declared_queue_is_refused_where_queues_must_be",
    ],
    "a chord with a failed or a lost part": [
        "test_a_chord_with_a_failed_and_with_a_lost_part_fails_as_in_plain_celery",
    ],
    "`apply_async(queue=...)`": [
        "test_a_queue_that_the_publish_names_wins_and_a_lanes_queue_leads_into_the_lane",
    ],
    "`retry`, `replace`": [
        "test_a_retry_stays_in_the_lane_and_keeps_its_caller",
        "test_a_retry_costs_what_was_said_at_its_publish_and_a_child_does_not",
        "test_every_way_in_is_routed_attributed_and_run_once",
    ],
    "`lanes.move(self.request, lane, stage)` (ours)": [
        "test_a_moved_call_waits_in_its_next_lane_while_its_slot_serves_others",
        "test_a_call_that_two_workers_died_of_moving_runs_once_in_its_next_lane",
    ],
    "`lanes.give_back(self.request, stage, delay)` (ours)": [
        "test_the_lane_waits_as_its_provider_asks_and_the_call_goes_back_to_its_place",
    ],
    "`link_error`": [
        "test_an_errback_learns_whose_call_failed",
        "test_an_errback_that_no_task_publishes_is_the_failed_calls",
    ],
    "`lane_priority=10` (-1000 to 1000, higher first)": [
        "test_calls_run_by_the_priority_that_publish_context_task_and_beat_give_them",
        "test_levels_go_first_across_callers_where_the_lane_says_so",
        "test_a_retry_and_a_replacement_keep_their_priority",
        "test_a_child_inherits_its_caller_and_is_as_urgent_as_its_context_says",
    ],
    "`priority`": ["test_priorities_order_a_callers_own_calls"],
    "`preemptible=True` by `apply_async`, else `@app.task(preemptible=True)`": [
        "test_a_running_call_makes_room_and_runs_again",
        "test_a_body_may_look_whether_to_make_room",
        "test_a_body_that_will_not_hear_is_stopped_in_the_end",
        "test_it_fails_as_preempted_where_the_lane_says_so",
    ],
    "`stream=True` by `apply_async`, `.set` (ours, for `generate`)": [
        "test_many_streams_of_one_worker_lose_and_reorder_nothing",
        "test_a_stream_whose_worker_is_killed_begins_again_and_ends",
        "test_the_end_comes_by_the_result_where_nobody_could_write_it",
    ],
    "ETA, `countdown`": [
        "test_an_eta_is_served_by_the_store_and_not_by_the_worker",
        "test_an_eta_far_away_stays_in_the_store",
        "test_the_limit_on_etas_in_a_workers_memory_does_not_concern_the_lane",
    ],
    "native delayed delivery (quorum queues)": [
        "test_native_delayed_delivery_on_quorum_queues_leads_into_the_lane",
    ],
    "`expires`": ["test_expires_a_call_that_waited_too_long_is_revoked_as_expired"],
    "`revoke(id)`, `result.revoke()`, `celery control revoke`": [
        "test_revoke_a_waiting_call_never_runs",
        "test_a_call_that_is_revoked_with_no_worker_up_never_runs",
        "test_a_revoke_meant_for_one_worker_leaves_what_waits",
    ],
    "`result.cancel()` (ours), `lanes.cancel(id)`, `lanes cancel ID`": [
        "test_a_waiting_call_is_cancelled_at_once_and_a_running_or_ended_one_is_not",
        "test_what_the_broker_still_has_is_cancelled_when_it_comes",
    ],
    "`revoke(id, terminate=True)`": [
        "test_revoke_terminate_stops_a_running_call_and_frees_its_slot",
        "test_gevent_stops_a_body_that_is_revoked",
    ],
    "stamps, `revoke_by_stamped_headers`": [
        "test_a_body_sees_the_stamps_of_its_call",
        "test_revoke_by_stamped_headers_reaches_calls_that_wait_and_a_call_that_runs",
        "test_all_that_waits_of_a_caller_is_cancelled",
    ],
    "`time_limit`, `soft_time_limit`": [
        "test_time_limits_are_the_lanes_unless_the_message_has_its_own",
        "test_a_tasks_own_time_limit_goes_before_the_lanes",
        "test_soft_limit_raises_in_the_body_from_the_moment_of_execution",
        "test_hard_limit_kills_the_body_and_says_whose_call_it_was",
        "test_gevent_stops_a_body_at_its_hard_time_limit",
    ],
    "`acks_late`": ["test_a_killed_worker_loses_nothing"],
    "early acknowledgement (Celery's default)": [
        "test_a_killed_worker_closes_early_acknowledged_calls_as_lost",
        "test_a_lost_process_fails_an_early_acknowledged_call",
    ],
    "`reject_on_worker_lost`": [
        "test_reject_on_worker_lost_goes_back_and_is_a_dead_letter_at_last",
        "test_a_dead_letter_that_is_tried_again_ends_with_its_result",
        "test_a_lost_process_runs_again_if_celery_is_told_so_for_all_tasks",
    ],
    "`retry_on_worker_lost` (5.7)": [
        "test_retry_on_worker_lost_publishes_a_new_call_of_the_same_caller",
        "test_a_retry_that_no_task_publishes_keeps_its_stage_and_its_cost",
    ],
    "`acks_on_failure_or_timeout = False` (from 5.7 also `acks_on_failure`, `acks_on_timeout`)": [
        "test_acks_on_failure_false_drops_a_failed_call_as_in_plain_celery",
        "test_a_time_out_runs_again_if_it_is_not_to_be_acknowledged",
    ],
    "`Reject`, `Ignore`": [
        "test_reject_and_ignore_settle_the_call",
        "test_reject_with_requeue_goes_back_and_runs_again",
    ],
    "`rate_limit` on a lane task": [
        "test_a_rate_limit_on_a_lane_task_is_refused_at_start",
        "test_a_rate_limit_at_run_time_does_not_hold_up_the_lane",
    ],
    "prefetch, `worker_disable_prefetch`": [
        "test_waiting_calls_take_no_place_in_the_prefetch_window",
    ],
    "`--autoscale`": ["test_autoscale_grows_for_waiting_calls"],
    "`--max-tasks-per-child`, `--max-memory-per-child`": [
        "test_max_tasks_per_child_recycles_processes_under_a_lane",
        "test_max_memory_per_child_recycles_processes_under_a_lane",
    ],
    "`control pool_restart`": ["test_pool_restart_keeps_the_cap"],
    "`control cancel_consumer` / `add_consumer lanes.x`": [
        "test_cancel_consumer_stops_the_lane_and_add_consumer_opens_it_again",
    ],
    "warm shutdown (TERM)": [
        "test_warm_shutdown_finishes_what_runs_and_leaves_what_waits",
        "test_a_warm_stop_under_load_neither_loses_nor_keeps_a_granted_call",
    ],
    "cold shutdown (QUIT)": [
        "test_cold_shutdown_gives_late_acknowledged_calls_back_at_once",
        "test_cold_shutdown_ends_early_acknowledged_calls_as_lost",
        "test_cold_shutdown_stops_a_call_whose_beginning_it_has_not_heard",
        "test_a_greenlet_that_a_cold_shutdown_kills_has_not_ended_well",
        "test_a_threads_body_that_a_cold_shutdown_could_not_stop_keeps_its_end",
    ],
    "soft shutdown (`worker_soft_shutdown_timeout`)": [
        "test_soft_shutdown_waits_for_what_ends_in_time_and_gives_the_rest_back",
        "test_a_worker_in_soft_shutdown_takes_no_calls_that_others_could_run",
    ],
    "broker reconnect, `worker_cancel_long_running_tasks_on_connection_loss`": [
        "test_a_broker_reconnect_neither_loses_nor_doubles_a_running_call",
        "test_calls_that_run_while_the_broker_restarts_run_once",
        "test_calls_end_and_reach_their_limits_while_the_worker_waits_for_its_broker",
    ],
    '`worker_pool_start_method = "spawn"`, eventlet': [
        "test_a_worker_that_would_spawn_its_processes_says_so_and_does_not_start",
        "test_eventlet_is_refused_in_one_line",
    ],
    "pickle, msgpack, yaml, compression, protocol 1": [
        "test_serializers_and_compression_pass_through",
        "test_protocol_1_messages_are_understood",
    ],
    "message signing (`setup_security`), `accept_content`": [
        "test_signed_messages_keep_their_signature_on_the_way_through_the_lane",
        "test_a_serializer_that_no_worker_accepts_makes_a_dead_letter_and_a_failure",
    ],
    "messages that are none: no id, fields of the wrong type, spoilt bodies": [
        "test_a_message_with_one_thing_wrong_holds_up_nothing",
        "test_a_real_worker_outlives_spoilt_messages_and_serves_the_good_ones_between",
    ],
    "`@app.task(pydantic=True)`": ["test_pydantic_tasks_take_and_give_models"],
    "task handlers (`before_start`, `after_return`, ...), a task's own `Request` class": [
        "test_a_tasks_handlers_and_its_own_request_class_are_called",
    ],
    "events (Flower), `inspect`": [
        "test_events_and_inspect_show_a_lane_call_as_any_other",
        "test_task_sent_events_go_to_the_broker_and_not_into_the_lane",
        "test_place_reason_and_command_agree_while_a_call_runs",
    ],
    "result backends, `result_extended`": [
        "test_attribution_is_stored_beside_the_error",
        "test_extended_results_name_the_task_its_queue_and_its_stamps",
        "test_a_database_keeps_results_and_errors_but_the_attribution_only_in_the_worker",
        "test_django_celery_results_is_a_backend_like_any_database",
    ],
    "`task_always_eager`, `Task.apply`": ["test_eager_mode_and_apply_carry_attribution_too"],
    "`enabled = false`": ["test_lanes_that_are_off_let_everything_pass_with_attribution"],
}


def test_every_row_of_the_table_of_celerys_features_has_a_test():
    assert [row for row, _ in rows()] == list(SHOWN)


def test_these_tests_exist():
    sources = [file.read_text() for file in (ROOT / "tests").rglob("test_*.py")]
    exist = {
        name for source in sources for name in re.findall(r"^def (test_\w+)", source, re.MULTILINE)
    }

    assert {name for names in SHOWN.values() for name in names} <= exist


def test_every_test_that_a_page_names_exists():
    named = {name for page in PAGES for name in re.findall(r"`([^`\s]*::[^`]*)`", page.read_text())}
    defined = {
        f"{file.relative_to(ROOT)}::{name}"
        for file in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"^def (test_\w+)", file.read_text(), re.MULTILINE)
    }

    assert len(named) > 100
    assert named - defined == set()


def test_every_verb_has_its_page_which_names_the_tests_that_show_it():
    pages = {page.name: page.read_text() for page in (ROOT / "docs/verbs").glob("*.md")}
    contents = pages.pop("README.md")

    assert set(re.findall(r"\]\((\w+\.md)\)", contents)) == set(pages)
    for page in pages.values():
        assert {"Example", "Races", "Shown by"} <= set(re.findall(r"^## (.+)$", page, re.MULTILINE))
        assert "::test_" in page.partition("## Shown by")[2]


def test_the_page_of_promises_has_a_row_for_every_promise_and_finding():
    page = (ROOT / "docs/promises.md").read_text()

    heads = re.findall(r"^\| ([PF]\d+) \|", page, re.MULTILINE)

    assert heads == [f"P{n}" for n in range(1, 9)] + [f"F{n}" for n in range(1, 43)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_file_and_heading_that_a_page_names_exists(page):
    text = page.read_text()
    named = A_FILE.findall(text)
    links = A_LINK.findall(text)

    assert [name for name in named if not exists(name, page)] == []
    assert [link for link in links if not leads_somewhere(*link, page)] == []


def exists(name: str, page: Path) -> bool:
    """Look for a file, or for any of a glob, from where a page may name it."""
    package = ROOT / "celery_lanes"
    places = (ROOT, page.parent, package, package / "store/redis/lua")
    return any(
        any(place.glob(name)) if "*" in name else (place / name).exists() for place in places
    )


def leads_somewhere(path: str, heading: str, page: Path) -> bool:
    target = page.parent / path if path else page
    return target.exists() and (not heading or heading in anchors(target))


def anchors(page: Path) -> set[str]:
    """Name a page's headings as GitHub does."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def rows() -> list[tuple[str, str]]:
    """Read the table's two columns; its head and the line below are left out."""
    lines = (ROOT / "docs/celery.md").read_text().splitlines()
    cells = [re.fullmatch(r"\| (.+?) \| (.+) \|", line) for line in lines]
    return [match.groups() for match in cells if match][1:]
