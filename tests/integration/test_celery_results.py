"""Rows of the table in ``docs/celery.md`` about results: every backend, and what it keeps."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from celery_lanes import CallInfo
from tests.integration.conftest import ROOT, until


@pytest.fixture(params=["redis", "rpc", "file"])
def backend(request: pytest.FixtureRequest, tmp_path) -> str | None:
    folder = tmp_path / "results"
    folder.mkdir()
    return {"redis": None, "rpc": "rpc://", "file": f"file://{folder}"}[request.param]


@pytest.mark.parametrize("is_extended", [False, True], ids=["plain", "extended"])
def test_attribution_is_stored_beside_the_error(make_shop, backend, is_extended):
    shop = make_shop()
    shop.backend = backend or shop.backend
    shop.conf = {"result_extended": is_extended}
    shop.worker(pool="threads")

    assert shop.tasks.echo.delay("ollama/x", 1).get(timeout=15) == 1
    with pytest.raises(ValueError, match=r"^boom$") as caught:
        shop.tasks.fail.apply_async(("ollama/x",), caller="alice", run_id="r").get(timeout=15)

    info = CallInfo.from_error(caught.value)
    assert (info.caller, info.run_id, info.lane) == ("alice", "r", "ollama")


def test_extended_results_name_the_task_its_queue_and_its_stamps(make_shop):
    shop = make_shop()
    shop.conf = {"result_extended": True}
    shop.worker()
    call = shop.tasks.stamped.s("ollama/x")
    call.stamp(order="o-17")

    result = call.apply_async()
    result.get(timeout=15)

    meta = shop.tasks.app.backend.get_task_meta(result.id)
    assert (meta["name"], meta["queue"]) == (shop.tasks.stamped.name, shop.queue("ollama"))
    assert (meta["args"], meta["order"]) == (["ollama/x"], "o-17")


def test_a_database_keeps_results_and_errors_but_the_attribution_only_in_the_worker(
    make_shop, tmp_path
):
    shop, note = make_shop(), tmp_path / "note"
    shop.backend = f"db+sqlite:///{tmp_path / 'results.sqlite'}"
    shop.worker(concurrency=1)
    tasks = shop.tasks

    assert tasks.echo.delay("ollama/x", 1).get(timeout=15) == 1
    errback = tasks.noted.s(path=str(note))
    failed = tasks.fail.apply_async(("ollama/x",), caller="alice", run_id="r", link_error=errback)

    with pytest.raises(ValueError, match=r"^boom$") as caught:
        failed.get(timeout=15)
    assert CallInfo.from_error(caught.value) is None
    until(lambda: note.exists() and note.read_text())
    assert note.read_text() == "alice r boom"


def test_django_celery_results_is_a_backend_like_any_database(make_shop, tmp_path):
    shop = make_shop()
    shop.backend = "django-db"
    shop.conf = {"result_extended": True}
    django = {
        "DJANGO_SETTINGS_MODULE": "tests.integration.django_settings",
        "SHOP_DATABASE": str(tmp_path / "django.sqlite"),
    }
    env = {**shop.full_env, **django}
    migrate = [sys.executable, "-m", "django", "migrate", "--verbosity=0"]
    subprocess.run(migrate, cwd=ROOT, env=env, check=True, timeout=60)
    shop.worker(concurrency=1, env=django)

    ask = [sys.executable, "-m", "tests.integration.django_producer"]
    told = subprocess.run(
        ask, cwd=ROOT, env=env, timeout=60, capture_output=True, text=True, check=False
    )

    assert told.returncode == 0, told.stderr
    assert json.loads(told.stdout) == {"value": 1, "error": "ValueError('boom')", "caller": None}
