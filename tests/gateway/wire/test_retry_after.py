"""How long a server asks to be left alone, in every form in use."""

import pytest

from local_gateway.wire.retry_after import retry_after_of

NOW = 1_445_412_440.0  # Wed, 21 Oct 2015 07:27:20 GMT


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": ""}, None),
        ({"retry-after": "2"}, 2.0),
        ({"retry-after": " 1.5 "}, 1.5),
        ({"retry-after": "0"}, 0.0),
        ({"retry-after": "-1"}, 0.0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after-ms": "300"}, 0.3),
        ({"retry-after-ms": "300", "retry-after": "1"}, 0.3),
        ({"retry-after-ms": "x", "retry-after": "1"}, 1.0),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 40.0),
        ({"retry-after": "Wednesday, 21-Oct-15 07:28:00 GMT"}, 40.0),
        ({"retry-after": "Wed, 21 Oct 2015 07:00:00 GMT"}, 0.0),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT", "date": "Wed, 21 Oct 2015 07:27:50 GMT"}, 10.0),
        ({"retry-after": "Wed Oct 21 07:28:00 2015"}, 40.0),
        ({"retry-after": "2015-10-21T07:28:00Z"}, 40.0),
        ({"retry-after": "2015-10-21T09:28:00+02:00"}, 40.0),
        ({"retry-after": "2015-10-21 07:28:00"}, 40.0),
        ({"retry-after": "7s"}, 7.0),
        ({"retry-after": "1m30.5s"}, 90.5),
        ({"retry-after": "1h 2m"}, 3720.0),
        ({"retry-after": "250ms"}, 0.25),
        ({"retry-after": "7 seconds"}, None),
        ({"retry-after": "1e2"}, 100.0),
        ({"retry-after": "1e20"}, 86400.0),
        ({"retry-after": "2115-10-21T07:28:00Z"}, 86400.0),
        ({"retry-after": "Wed, 99 Oct 2015 07:28:00 GMT"}, None),
    ],
    ids=str,
)
def test_forms(headers: dict[str, str], seconds: float | None) -> None:
    """Seconds, milliseconds, a date by the server's clock; what is none of these counts as not said."""
    assert retry_after_of(headers, lambda: NOW) == seconds
