"""How many sequences are let in."""

import pytest

from handler.engine.admission import Admission
from handler.errors import InvalidRequestError, QueueFullError


def test_places_are_taken_and_released() -> None:
    """A request needs places for all of its sequences at once."""
    admission = Admission(3)
    admission.admit(2)
    with pytest.raises(QueueFullError, match="2 sequences are running or waiting, and at most 3 may"):
        admission.admit(2)
    admission.release(1)
    admission.admit(2)
    assert admission.num_sequences == 3


def test_more_than_there_will_ever_be() -> None:
    """Trying again would not help, and the error says so."""
    with pytest.raises(InvalidRequestError, match="asks for 4 answers; this worker takes 3"):
        Admission(3).admit(4)


def test_one_request_leaves_places_to_others() -> None:
    """A quarter of many places is never one request's; where there are few, it may have all."""
    admission = Admission(80)
    with pytest.raises(InvalidRequestError, match="asks for 61 answers; this worker takes 60"):
        admission.admit(61)
    admission.admit(60)
    admission.admit(20)


def test_a_check_reserves_nothing() -> None:
    """It says what admission would say."""
    admission = Admission(1)
    admission.check(1)
    admission.admit(1)
    with pytest.raises(QueueFullError):
        admission.check(1)
