"""A Celery worker that dies in the midst of a move: ``python dying.py VERB worker ...``.

It is killed when it would say the verb to the store, which is one that only moves need here.
"""

from __future__ import annotations

import os
import signal
import sys

from celery.__main__ import main

from celery_lanes.store.redis.store import RedisStore


def die(*_: object, **__: object) -> None:
    """Be killed, as by the OOM killer."""
    os.kill(os.getpid(), signal.SIGKILL)


setattr(RedisStore, sys.argv.pop(1), die)
main()
