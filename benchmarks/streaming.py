"""The app whose replies are streamed."""

import os

from celery import Celery

from celery_lanes import Lanes

app = Celery("streaming", broker=os.environ["BENCH_SERVER"], backend=os.environ["BENCH_SERVER"])
lanes = Lanes(app)
