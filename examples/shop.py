"""A Celery shop with lanes: three lines more, and its LLM calls are routed, capped and fair.

In the project's root, with a Redis or Valkey server on this machine ($CELERY_BROKER_URL and
$CELERY_RESULT_BACKEND name another) and Ollama or any OpenAI-compatible server behind
$LLM_OLLAMA:

    celery -A examples.shop worker -Q lanes.ollama -c 3
    python examples/shop.py
    celery -A examples.shop lanes status
"""

from celery import Celery, Task

from celery_lanes import CallInfo, Lanes, call_context
from celery_lanes.tasks import generate

app = Celery("shop", broker="redis://localhost/0", backend="redis://localhost/1")
lanes = Lanes(app, "config/lanes.toml")


@app.task(name="examples.shop.summarise", bind=True)
def summarise(self: Task, model: str, text: str) -> str:
    """Be an existing task: it is routed because it has an argument called ``model``."""
    info = CallInfo.from_request(self.request)
    return f"{info.caller} had {len(text.split())} words summarised by {model} in lane {info.lane}"


def main() -> None:
    """Publish in three ways and wait for the results."""
    app.set_current()  # generate is a shared task: it belongs to the current app
    calls = [
        generate.delay("ollama/llama3.1:8b", "Say hi"),
        generate.apply_async(("ollama/llama3.1:8b", "Say hi"), caller="alice", run_id="run-17"),
    ]
    with call_context(caller="bob", run_id="run-18"):
        report = summarise.delay("ollama/llama3.1:8b", "It was a dark and stormy night")

    for call in calls:
        answer = call.get(timeout=60)
        print(f"{answer['text']!r} by {answer['lane']}, waited {answer['wait_s']:.2f} s")
    print(report.get(timeout=60))


if __name__ == "__main__":
    main()
