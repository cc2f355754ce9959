"""A batch by night that never gets in the way: beat publishes under a caller of its own.

Lanes share by caller, so however much the batch queues, everybody else keeps an equal share; in
``config/lanes.toml`` it may be given less: ``[callers."nightly batch"]`` with ``weight = 0.1``.

    celery -A examples.nightly_batch worker -Q lanes.ollama -c 3
    celery -A examples.nightly_batch beat
    python examples/nightly_batch.py          # publishes tonight's entry at once
"""

from celery import Celery
from celery.schedules import crontab

from celery_lanes import Lanes

app = Celery("nightly_batch", broker="redis://localhost/0", backend="redis://localhost/1")
lanes = Lanes(app, "config/lanes.toml")
app.conf.beat_schedule = {
    "summarise the day": {
        "task": "celery_lanes.generate",
        "schedule": crontab(hour=2, minute=0),
        "args": ("ollama/llama3.1:8b", "Summarise what was sold today."),
        "options": {"caller": "nightly batch", "run_id": "nightly"},
    },
}


def main() -> None:
    """Publish the entry as beat would, and wait for its result."""
    entry = app.conf.beat_schedule["summarise the day"]
    result = app.send_task(entry["task"], entry["args"], **entry["options"])
    answer = result.get(timeout=60)
    print(f"{answer['text']!r} for the nightly batch, in lane {answer['lane']}")


if __name__ == "__main__":
    main()
