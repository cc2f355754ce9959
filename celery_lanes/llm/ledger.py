"""What was done for one call: an entry for every attempt, and for every target passed by."""

from __future__ import annotations

from celery_lanes.llm.value import Told


class Attempt(Told):
    """One target, asked or passed by.

    Attributes:
        target: ``provider/model``.
        error_class: the error's, ``Benched`` or ``OutOfTime`` for one that was not asked, ``None``
            for the one that answered.
        reason: what was wrong, in up to 200 characters.
        status: the HTTP status, if it is an error that has one.
        retry_after_s: what the provider asked to wait.
        request_id: the provider's name for the request, for its support.
        waited_s: the pause before it.
        ran_s: how long it took; of a stream, to its end.
        tokens: input and output together, as far as they are known.
        possibly_billed: the provider may charge for it.
    """

    target: str
    error_class: str | None = None
    reason: str | None = None
    status: int | None = None
    retry_after_s: float | None = None
    request_id: str | None = None
    waited_s: float = 0.0
    ran_s: float = 0.0
    tokens: int | None = None
    possibly_billed: bool = False
