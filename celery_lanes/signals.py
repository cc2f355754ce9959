"""What happens here, as Celery signals."""

from __future__ import annotations

from celery.utils.dispatch import Signal

failover = Signal(name="failover", providing_args={"event"})
"""A chain of ``lanes.registry`` went from model to model, or meant to: ``event`` is a
``FailoverEvent``, ``sender`` the task whose call it was, or ``None`` outside a task. Receivers run
in the call's thread, which waits for them; what they raise is logged.
"""
