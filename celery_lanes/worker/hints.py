"""What a worker says at its start of the queues that it was given: most often one is missing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from celery.utils.log import get_logger

from celery_lanes.config.settings import Settings

logger = get_logger(__name__)

MOST_NAMED = 3


def hint_at_queues(settings: Settings, queues: Iterable[str], default: str) -> None:
    """Log what is probably a mistake; ``default``: the queue of a worker that was given none."""
    given = set(queues)
    mistaken = sorted(_lanes_as_queues(settings, given))
    for lane in mistaken:
        logger.warning(
            "celery_lanes: %s is a plain queue; that of lane %s is %s: -Q %s",
            *(lane, lane, settings.queue(lane), settings.queue(lane)),
        )
    if mistaken or not settings.named_lanes or any(map(settings.lane_of_queue, given)):
        return
    say = logger.warning if given == {default} else logger.info  # others were chosen
    say(
        "celery_lanes: this worker serves no lane; for those of the settings: -Q %s",
        ",".join([*sorted(given), *_queues(settings)]),
    )


def _lanes_as_queues(settings: Settings, given: set[str]) -> Iterator[str]:
    plain = (queue for queue in given if settings.lane_of_queue(queue) is None)
    return (queue for queue in plain if settings.names(queue))


def _queues(settings: Settings) -> list[str]:
    names = sorted(settings.named_lanes)
    rest = ["..."] if len(names) > MOST_NAMED else []
    return [*map(settings.queue, names[:MOST_NAMED]), *rest]
