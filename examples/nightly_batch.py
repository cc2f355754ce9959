"""A batch by night, and people who ask by day, in one lane; the batch never gets in their way.

Beat publishes the batch under a caller of its own. Lanes share by caller, so however much of it
waits, everybody else keeps an equal share. It also says that it is not urgent, and may be stopped:
with ``preemption = true`` under ``[lanes.ollama]`` in ``config/lanes.toml``, whoever asks goes
before all of it that waits, but for one call in twenty, and takes the slot of what has run for
longer than ``min_runtime`` (30 s).

    celery -A examples.nightly_batch worker -Q lanes.ollama -c 3
    celery -A examples.nightly_batch beat
    python examples/nightly_batch.py          # two people ask, and are told when it is their turn

``NIGHTLY_EVERY_S=5`` has beat publish the batch every 5 seconds, to see it by day.
"""

import os

from celery import Celery
from celery.schedules import crontab

from celery_lanes import Lanes
from celery_lanes.tasks import generate

MODEL = "ollama/llama3.1:8b"
REGIONS = ("north", "east", "south", "west")
REPORTS = ("sales", "returns", "complaints", "stock", "staff", "weather")
EVERY_S = os.environ.get("NIGHTLY_EVERY_S")

app = Celery("nightly_batch", broker="redis://localhost/0", backend="redis://localhost/1")
lanes = Lanes(app)  # reads config/lanes.toml, or what $CELERY_LANES_CONFIG names
app.conf.beat_schedule = {
    f"{report} in the {region}": {
        "task": "celery_lanes.generate",
        "schedule": float(EVERY_S) if EVERY_S else crontab(hour=2, minute=0),
        "args": (MODEL, f"Summarise the day's {report} in the {region}."),
        "options": {
            "caller": "nightly",
            "run_id": "nightly",
            "lane_priority": -10,  # from -1000 to 1000; others have 0
            "preemptible": True,  # it runs again later, with its result pending
        },
    }
    for report in REPORTS
    for region in REGIONS
}


def main() -> None:
    """Ask for two people, say when it will be their turn, and wait for the answers."""
    app.set_current()  # generate is a shared task: it belongs to the current app
    questions = {"ann": "What sold best today?", "bob": "Who is on duty tonight?"}
    asked = {
        caller: lanes.submit(generate.s(MODEL, question).set(caller=caller, run_id="chat"))
        for caller, question in questions.items()
    }

    for caller, submission in asked.items():
        print(f"{caller}: {submission.position.explanation}")
    for caller, submission in asked.items():
        answer = submission.result.get(timeout=60)
        print(f"{answer['text']!r} for {caller}, in lane {answer['lane']}")


if __name__ == "__main__":
    main()
