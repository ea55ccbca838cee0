"""data: URLs of requests."""

import pytest

from handler.errors import InvalidRequestError
from handler.media.data_url import read_data_url


@pytest.mark.parametrize("url", ["data:image/png;base64,AAEC", "DATA:;BASE64,AAEC", "data:audio/wav;x=1;base64,AAEC"])
def test_data_url(url: str) -> None:
    """The bytes are read, whatever type the URL claims."""
    assert read_data_url(url, 3) == b"\x00\x01\x02"


@pytest.mark.parametrize(
    "url",
    [
        *("data:image/png,AAEC", "data:image/png;base64", "data:image/png;base64,", "data:image/png;base64,AAE"),
        *("data:image/png;base64,AA EC", "data:image/png;base64,AA\u00e9C", "image/png;base64,AAEC"),
        *("data:image/png;base64,AAECAw==", "data:image/png;base64," + "A" * 1000),
    ],
)
def test_refused(url: str) -> None:
    """Damaged, empty and too large ones are refused."""
    with pytest.raises(InvalidRequestError):
        read_data_url(url, 3)
