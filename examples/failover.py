"""A chain of models: when the first does not answer, the same task goes on in the lane of the next.

celery -A examples.failover worker -Q lanes.m1,lanes.ollama -c 3
python examples/failover.py
celery -A examples.failover lanes status    # both lanes had a call
"""

from celery import Celery

from celery_lanes import Lanes
from celery_lanes.llm import FailoverEvent
from celery_lanes.signals import failover
from celery_lanes.tasks import generate

app = Celery("failover", broker="redis://localhost/0", backend="redis://localhost/1")
lanes = Lanes(app, "config/lanes.toml")
lanes.registry.register_alias("quick", "m1/qwen3:30b,ollama/llama3.1:8b")


@failover.connect
def tell(event: FailoverEvent, **_: object) -> None:
    """Say, in the worker's log, what a chain does."""
    print(f"{event.kind}: {event.target}, then {event.next_target}")


def main() -> None:
    """Ask, and see who was asked."""
    result = generate.apply_async(("quick", "Name a colour."), caller="alice").get(timeout=60)
    for attempt in result["attempts"]:
        outcome = attempt["reason"] or "answered"
        print(f"{attempt['target']} in lane {attempt['lane']}: {outcome}")
    print(f"{result['text']} (in lane {result['lane']})")


if __name__ == "__main__":
    main()
