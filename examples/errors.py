"""Whose call failed: the error keeps its class and message, and says caller, run, lane and model.

celery -A examples.errors worker -Q lanes.ollama -c 3
python examples/errors.py
"""

from celery import Celery

from celery_lanes import CallInfo, Lanes

app = Celery("errors", broker="redis://localhost/0", backend="redis://localhost/1")
lanes = Lanes(app, "config/lanes.toml")


@app.task(name="examples.errors.translate")
def translate(model: str, text: str) -> str:
    """Fail, as a task does whose input is wrong."""
    raise ValueError(f"{model} cannot translate {text!r}")


def main() -> None:
    """Publish a call that fails, and find out whose it was."""
    call = translate.apply_async(("ollama/llama3.1:8b", "?"), caller="alice", run_id="run-17")
    try:
        call.get(timeout=60)
    except ValueError as error:
        info = CallInfo.from_error(error)
        print(f"{type(error).__name__}: {error}")
        print(f"caller {info.caller}, run {info.run_id}, lane {info.lane}, model {info.model}")


if __name__ == "__main__":
    main()
