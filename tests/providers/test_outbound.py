"""Connections go to addresses that were checked, however a host is written and whatever its name leads to."""

from __future__ import annotations

import ipaddress
import socket

import aiohttp
import pytest
from aiohttp.abc import AbstractResolver, ResolveResult
from hypothesis import given
from hypothesis import strategies as st

from penstock.failures import CallFailed
from penstock.outbound import addresses
from penstock.outbound.peer import Peer
from penstock.outbound.policy import AddressRefused, Policy, check_url, networks_of
from tests.support.http_servers import responding, serving

METADATA = [
    "http://169.254.169.254/latest/meta-data",
    "http://169.254.169.254./",
    "http://2852039166/",
    "http://0xa9fea9fe/",
    "http://0251.0376.0251.0376/",
    "http://169.254.43518/",
    "http://[::ffff:169.254.169.254]/",
    "http://[::ffff:a9fe:a9fe]/",
    "http://[64:ff9b::a9fe:a9fe]/",
    "http://[2002:a9fe:a9fe::1]/",
    "http://[fe80::1%25eth0]/",
    "http://[fd00:ec2::254]/",
    "http://\uff11\uff16\uff19.\uff12\uff15\uff14.169.254/",  # of full width: to the HTTP client digits
    "http://169\u3002254\u3002169\u3002254/",  # and so with dots
    "http://\u2460\u2465\u2468.254.169.254/",
]


@pytest.mark.parametrize("url", METADATA)
def test_no_spelling_of_a_metadata_service_passes(url: str) -> None:
    """It does not matter how the system would interpret the spelling."""
    assert "may not be connected to" in str(check_url(url))


@pytest.mark.parametrize("url", ["http://0.0.0.0/", "http://[::]/", "http://224.0.0.1/", "http://255.255.255.255/"])
def test_special_addresses_are_refused(url: str) -> None:
    """Unspecified, multicast and broadcast addresses are special."""
    assert check_url(url) is not None


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:8000/v1", "http://10.1.2.3", "https://models.example", "http://[::1]:1"]
)
def test_addresses_of_model_servers_are_allowed(url: str) -> None:
    """They run on this machine, in private networks, or behind names."""
    assert check_url(url) is None


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/",
        "http://10.1.2.3/",
        "http://[::1]/",
        "http://192.168.1.1/",
        "http://168.63.129.16/",
        "http://192.0.0.9/",
        "http://[fec0::1]/",
        "http://[3fff::1]/",
    ],
)
def test_a_public_policy_refuses_private_addresses(url: str) -> None:
    """It accepts public addresses."""
    assert check_url(url, Policy(public=True)) is not None
    assert check_url("http://93.184.216.34/", Policy(public=True)) is None


@pytest.mark.parametrize(
    ("url", "said"),
    [
        (None, "is required"),
        ("ftp://h/", "http:// or https://"),
        ("file:///etc/passwd", "http:// or https://"),
        ("http://", "http:// or https://"),
        ("http://user:password@h/", "user or password"),
        ("http://h/#x", "fragment"),
        ("http://h:99999/", "must be a URL"),
        ("http://h:0/", "must be"),
        ("http://h /", "must"),
        ("http://[::1", "must be a URL"),
    ],
)
def test_a_url_that_is_not_a_servers_is_refused(url: object, said: str) -> None:
    """The policy names the reason."""
    assert said in str(check_url(url))


@given(st.integers(0, 2**32 - 1))
def test_an_ipv4_address_inside_ipv6_is_judged_as_itself(number: int) -> None:
    """This holds for mapped, translated and tunnelled addresses."""
    plain = ipaddress.IPv4Address(number)
    refusal = Policy().refusal(plain)
    high, low = number >> 16, number & 0xFFFF
    for text in (f"::ffff:{high:x}:{low:x}", f"64:ff9b::{high:x}:{low:x}", f"2002:{high:x}:{low:x}::1"):
        assert Policy().refusal(ipaddress.ip_address(text)) == refusal, text


@given(st.text(max_size=40))
def test_no_text_makes_the_check_fail_in_another_way(text: str) -> None:
    """The check returns a reason or None for any text; it never raises."""
    for url in (text, f"http://{text}", f"http://{text}/", f"http://[{text}]/"):
        check_url(url)


class Names(AbstractResolver):
    """A resolver that returns the next of the given addresses at each look-up."""

    def __init__(self, *addresses: list[str]) -> None:
        self.left = list(addresses)
        self.lookups = 0

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        self.lookups += 1
        found = self.left.pop(0) if len(self.left) > 1 else self.left[0]
        return [
            ResolveResult(hostname=host, host=one, port=port, family=socket.AF_INET, proto=0, flags=0) for one in found
        ]

    async def close(self) -> None:
        pass


async def post(url: str, resolver: AbstractResolver | None, policy: Policy | None = None) -> bytes:
    provider = Peer(headers={}, timeout_seconds=5, policy=policy, resolver=resolver)
    try:
        body, _ = await provider.post(url, headers={}, data=b"{}")
        return body
    finally:
        await provider.close()


async def test_a_name_is_checked_by_its_address() -> None:
    """Each connection checks it again: a name that later resolves to another address is refused."""
    async with serving(responding({"ok": True})) as seen:
        port = seen.address.rpartition(":")[2]
        url = f"http://models.example:{port}/"
        names = Names(["127.0.0.1"], ["169.254.169.254"])
        assert await post(url, names) == b'{"ok": true}'
        with pytest.raises(CallFailed, match="may not be connected to"):
            await post(url, names)
        assert names.lookups == 2
        with pytest.raises(CallFailed, match="not on the public internet"):
            await post(url, Names(["127.0.0.1"]), Policy(public=True))
        assert len(seen.bodies) == 1


async def test_of_several_addresses_only_allowed_ones_are_used() -> None:
    """A list of networks narrows what is allowed."""
    async with serving(responding({"ok": True})) as seen:
        url = f"http://models.example:{seen.address.rpartition(':')[2]}/"
        assert await post(url, Names(["169.254.169.254", "127.0.0.1"])) == b'{"ok": true}'
        narrow = Policy(networks=tuple(networks_of(["10.0.0.0/8"])))
        with pytest.raises(CallFailed, match="outside of the allowed networks"):
            await post(url, Names(["127.0.0.1"]), narrow)
        with pytest.raises(CallFailed, match="outside of the allowed networks"):
            await post(seen.address, None, narrow)


async def test_redirects_proxies_and_cookies_are_not_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection goes to the server that was named."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    async with serving(responding({}, status=302, Location="http://127.0.0.1:1/")) as seen:
        with pytest.raises(CallFailed, match="redirects, which is not followed"):
            await post(seen.address, None)
    async with serving(responding({}, 200, **{"Set-Cookie": "a=b"})) as seen:
        provider = Peer(headers={}, timeout_seconds=5)
        for _ in range(3):
            await provider.post(seen.address, headers={}, data=b"{}")
        await provider.close()
        assert not any("Cookie" in headers for headers in seen.headers)
        assert len(seen.ports) == 1  # and the connection was kept


def test_networks_are_read_or_refused() -> None:
    """The error names the setting."""
    assert [str(one) for one in networks_of(["10.1.2.3/8", "::1"])] == ["10.0.0.0/8", "::1/128"]
    for wrong in ("10.0.0.0/8", [5], ["here"]):
        with pytest.raises(ValueError, match="networks"):
            networks_of(wrong)


async def test_a_literal_address_does_not_pass_by_the_resolver() -> None:
    """The address is checked before the connection is made."""
    with pytest.raises(CallFailed, match="may not be connected to"):
        await post("http://169.254.169.254/", None)
    with pytest.raises(AddressRefused):
        Policy().check("h", "169.254.169.254")


@pytest.mark.parametrize("url", [f"http://{'a' * 70}.com/", "http://a..b/", "http://\u2025/", "http://xn--/"])
def test_hosts_that_are_not_names(url: str) -> None:
    """They are reported as mistakes, and raise nothing."""
    assert check_url(url) is None or "must be a URL" in str(check_url(url))


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "\uff11\uff12\uff17.0.0.1", "2130706433", "[::ffff:127.0.0.1]", "localhost"]
)
async def test_no_socket_is_made_for_an_address_that_is_refused(host: str) -> None:
    """This holds even if the URL was not checked before."""
    async with serving(responding({})) as seen:
        port = seen.address.rpartition(":")[2]
        session = addresses.session(Policy(public=True), seconds=5)
        try:
            with pytest.raises(aiohttp.ClientError):
                await session.get(f"http://{host}:{port}/")
        finally:
            await session.close()
        assert seen.bodies == []
