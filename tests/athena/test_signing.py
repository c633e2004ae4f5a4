"""Signatures of requests: what verifies, what does not, and that no input breaks the check."""

from __future__ import annotations

import base64
import hashlib
import hmac
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.athena.protocol import signing
from penstock.athena.protocol.signing import Authorization, BadSignature, SignedRequest

SECRET = "fcc1f2699768f3373d1622e9dab9780d"
KEY = "9eda6546894b0ab3f1d8ab4e53f5ee49"
NOW = datetime(2026, 11, 30, 8, 0, tzinfo=UTC)
HASHES: dict[str, Callable[..., Any]] = {
    "hmac-sha1": hashlib.sha1,
    "hmac-sha256": hashlib.sha256,
    "hmac-sha512": hashlib.sha512,
}


def authorization(
    *,
    host: str = "api.example.com",
    path: str = "/v1/private/ocr",
    method: str = "POST",
    algorithm: str = "hmac-sha256",
    at: datetime = NOW,
    encoded: bool = True,
) -> str:
    """Return what a client sends, made from the published rule alone."""
    text = f"host: {host}\ndate: {format_datetime(at, usegmt=True)}\n{method} {path} HTTP/1.1"
    made = base64.b64encode(hmac.new(SECRET.encode(), text.encode(), HASHES[algorithm]).digest()).decode()
    stated = f'api_key="{KEY}", algorithm="{algorithm}", headers="host date request-line", signature="{made}"'
    return base64.b64encode(stated.encode()).decode() if encoded else stated


def request(**changes: Any) -> SignedRequest:
    stated = {"host": "api.example.com", "date": format_datetime(changes.pop("at", NOW), usegmt=True)}
    fields: dict[str, Any] = {
        "method": "POST",
        "path": "/v1/private/ocr",
        "query": "",
        "hosts": ["api.example.com:8080"],
        "stated": stated,
    }
    return SignedRequest(**(fields | changes))


def verifies(text: str, sent: SignedRequest, *, now: datetime = NOW, secret: str = SECRET) -> bool:
    found = signing.parse(text)
    signing.check_date(sent, found, now=now.timestamp())
    return signing.matches(sent, found, secret.encode())


@pytest.mark.parametrize("algorithm", HASHES)
@pytest.mark.parametrize("encoded", [True, False])
def test_each_algorithm_verifies_in_base64_and_plain(algorithm: str, encoded: bool) -> None:
    text = authorization(algorithm=algorithm, encoded=encoded)
    assert verifies(text, request())
    assert not verifies(text, request(), secret=SECRET[::-1])


def test_the_library_that_signs_for_clients_agrees() -> None:
    date = format_datetime(NOW, usegmt=True)
    made = signing.sign(SECRET, method="POST", host="api.example.com", path="/v1/private/ocr", date=date)
    assert base64.b64decode(made) == signing.parse(authorization()).signature


def test_the_host_may_be_signed_with_or_without_its_port() -> None:
    for host in ("api.example.com", "api.example.com:8080"):
        stated = {"host": host, "date": format_datetime(NOW, usegmt=True)}
        assert verifies(authorization(host=host), request(stated=stated))
        del stated["host"]  # sent as the header Host only
        assert verifies(authorization(host=host), request(stated=stated))


@pytest.mark.parametrize(
    "changes",
    [
        {"method": "GET"},
        {"path": "/v1/private/other"},
        {"hosts": ["elsewhere.example.com"]},
        {"stated": {"host": "elsewhere.example.com", "date": format_datetime(NOW, usegmt=True)}},
    ],
)
def test_a_signature_is_for_one_method_path_and_host(changes: dict[str, Any]) -> None:
    assert not verifies(authorization(), request(**changes))


@pytest.mark.parametrize("seconds", [-301, 301, 10**6, -(10**9)])
def test_a_signature_outside_the_clock_window_is_refused(seconds: int) -> None:
    at = NOW + timedelta(seconds=seconds)
    with pytest.raises(BadSignature, match="valid date") as refused:
        verifies(authorization(at=at), request(at=at))
    assert refused.value.status == 403


@pytest.mark.parametrize("seconds", [-300, 0, 300])
def test_clocks_may_differ_by_the_window(seconds: int) -> None:
    at = NOW + timedelta(seconds=seconds)
    assert verifies(authorization(at=at), request(at=at))


@pytest.fixture
def zone_of_shanghai(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The gateway runs in a time zone other than UTC."""
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "UTC-8")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.usefixtures("zone_of_shanghai")
@pytest.mark.parametrize("zone", ["", " -0000", " GMT", " +0000"])
def test_a_date_without_a_zone_is_in_utc(zone: str) -> None:
    date = NOW.strftime("%a, %d %b %Y %H:%M:%S") + zone
    stated = request(stated={"host": "api.example.com", "date": date})
    signing.check_date(stated, signing.parse(authorization()), now=NOW.timestamp())


@pytest.mark.parametrize("date", ["", "yesterday", "2026-11-30", "Mon, 99 Nov 2026 08:00:00 GMT", "9" * 400])
def test_a_date_that_cannot_be_read_is_refused(date: str) -> None:
    with pytest.raises(BadSignature, match="valid date"):
        verifies(authorization(), request(stated={"host": "api.example.com", "date": date}))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "api_key and signature"),
        ("!!!", "api_key and signature"),
        (f'api_key="{KEY}"', "api_key and signature"),
        ('signature="YWJj"', "api_key and signature"),
        (f'api_key="{KEY}", signature="YWJj", algorithm="hmac-md5"', "algorithm must be"),
        (f'api_key="{KEY}", signature="YWJj", headers="host date"', "request-line and date"),
        (f'api_key="{KEY}", signature="YWJj", headers="host request-line"', "request-line and date"),
        (f'api_key="{KEY}", signature="YWJj", headers="date date request-line"', "each once"),
        (f'api_key="{KEY}", signature="YWJj", headers="cookie date request-line"', "may name"),
        ("x" * 5000, "too long"),
    ],
)
def test_a_wrong_authorization_is_refused_with_what_is_needed(text: str, reason: str) -> None:
    with pytest.raises(BadSignature, match=reason):
        signing.parse(text)


@given(st.text(max_size=300))
def test_any_text_is_read_or_refused(text: str) -> None:
    for one in (text, base64.b64encode(text.encode("utf-8", "surrogatepass")).decode()):
        try:
            found = signing.parse(one)
        except BadSignature:
            continue
        assert isinstance(found, Authorization)


@given(st.binary(min_size=1, max_size=80), st.text(max_size=40), st.text(max_size=40), st.text(max_size=40))
def test_no_other_signature_verifies(signature: bytes, host: str, date: str, path: str) -> None:
    stated = Authorization(api_key=KEY, algorithm="sha256", lines=("host", "date", "request-line"), signature=signature)
    sent = request(path=path, hosts=[host], stated={"date": date})
    assert not signing.matches(sent, stated, SECRET.encode())
