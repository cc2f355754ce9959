"""Producer, memory broker, memory store and worker in one process: ``python -m ... POOL``.

The shop's configuration comes by its environment variables, as for any worker.
"""

from __future__ import annotations

import sys


def main(pool: str) -> None:
    if pool == "gevent":
        from gevent import monkey

        monkey.patch_all()  # before anything else is imported, as ``celery worker -P gevent`` does
    from celery.contrib.testing.worker import start_worker

    from tests.integration import shop
    from tests.integration.accept import assert_accepted

    shop.app.amqp.queues.select([shop.lanes.settings.queue("ollama")])
    with start_worker(
        shop.app,
        pool=pool,
        concurrency=1 if pool == "solo" else 4,
        perform_ping_check=False,
        shutdown_timeout=20,
    ):
        assert_accepted(shop)


if __name__ == "__main__":
    main(sys.argv[1])
    print("accepted")  # noqa: T201 # the test reads it
