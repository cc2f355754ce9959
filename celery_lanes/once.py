"""What an object has but one of, made at its first use."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar, overload

Value = TypeVar("Value")


class once(Generic[Value]):  # noqa: N801 # as property
    """A property that is made at its first use and kept: all threads get the same one.

    ``functools.cached_property`` takes no lock since Python 3.12, and each thread may keep another.
    There is none here either, for it might be forked while it is held: of what two threads have
    made at once, the first is for both, and the other is dropped.
    """

    def __init__(self, make: Callable[[Any], Value]) -> None:
        self._make = make
        self._name = make.__name__
        self.__doc__ = make.__doc__

    @overload
    def __get__(self, instance: None, owner: type) -> once[Value]: ...
    @overload
    def __get__(self, instance: object, owner: type) -> Value: ...
    def __get__(self, instance: object, owner: type) -> Value | once[Value]:
        """Make it, for the next use is answered by the instance itself."""
        if instance is None:
            return self
        kept: dict[str, Value] = vars(instance)
        return kept.setdefault(self._name, self._make(instance))
