import pickle

import pytest
from kombu.exceptions import OperationalError

from celery_lanes import errors
from celery_lanes.errors import LaneBusy, LanesError, ProviderError, RateLimited, StoreUnavailable


def every_error() -> list[type[LanesError]]:
    found = vars(errors).values()
    return [e for e in found if isinstance(e, type) and issubclass(e, LanesError)]


@pytest.mark.parametrize("cls", every_error(), ids=lambda cls: cls.__name__)
def test_an_error_without_a_message_says_what_its_docstring_says(cls):
    assert str(cls()) == cls.__doc__.splitlines()[0]


@pytest.mark.parametrize("cls", every_error(), ids=lambda cls: cls.__name__)
def test_an_error_can_be_rebuilt_from_its_args_as_celerys_json_backend_does(cls):
    error = cls("the wire broke")

    rebuilt = cls(*error.args)

    assert (str(rebuilt), rebuilt.args) == ("the wire broke", error.args)


def test_a_provider_error_keeps_status_and_retry_after_in_its_args():
    error = RateLimited("slow down", 429, 7.5)

    rebuilt = RateLimited(*error.args)

    assert (rebuilt.status, rebuilt.retry_after_s) == (429, 7.5)


def test_a_busy_lane_keeps_place_wait_and_excess_in_its_args():
    error = LaneBusy("busy", 3, 30.0, 17.5)

    rebuilt = pickle.loads(pickle.dumps(LaneBusy(*error.args)))

    assert (rebuilt.position, rebuilt.eta_s, rebuilt.retry_after_s) == (3, 30.0, 17.5)


def test_in_a_log_an_error_is_its_class_and_its_message():
    assert repr(RateLimited("slow down", 429, 7.5, "req_7")) == "RateLimited('slow down')"
    assert repr(StoreUnavailable()).startswith("StoreUnavailable('The lane store cannot be reached")


def test_a_provider_error_without_an_answer_has_no_status():
    error = ProviderError("no answer")

    assert (error.status, error.retry_after_s) == (None, None)


def test_a_publish_without_a_store_fails_like_one_without_a_broker():
    with pytest.raises(OperationalError, match="nothing was accepted"):
        raise StoreUnavailable


def test_the_tree_in_the_docstring_names_every_error():
    missing = [cls.__name__ for cls in every_error() if cls.__name__ not in errors.__doc__]

    assert missing == []


@pytest.mark.parametrize(
    ("error", "is_overload"),
    [
        (errors.RateLimited("slow down", 429), True),
        (errors.RateLimited("slow down"), True),
        (errors.TransientError("overloaded", 529), True),
        (errors.TransientError("busy", 503), True),
        (errors.TransientError("broken", 500), False),
        (errors.TransientError("no answer"), False),
        (errors.QuotaExhausted("no credit", 429), False),
    ],
    ids=lambda value: f"{type(value).__name__}-{getattr(value, 'status', '')}",
)
def test_a_provider_that_is_only_busy_is_overloaded(error, is_overload):
    assert error.is_overload is is_overload
