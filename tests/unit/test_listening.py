"""Sockets for every address that a name resolves to."""

from __future__ import annotations

import errno
import socket

import pytest

from penstock.errors import SettingsError
from penstock.supervisor.ports import free_port
from penstock.web.listening import listeners

Meant = list[tuple[int, int, int, str, tuple[str, int]]]


def resolving_to(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> None:
    """Make names resolve to these addresses."""

    def resolve(_host: str, port: int, **_: object) -> Meant:
        return [(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (one, port)) for one in addresses]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)


@pytest.fixture
def port() -> int:
    return free_port()


def opened(port: int) -> list[str]:
    """Listen, close, and return the addresses that were listened on."""
    sockets = listeners("localhost", port, "HTTP_PORT")
    places = [one.getsockname()[0] for one in sockets]
    for one in sockets:
        one.close()
    return places


def test_an_address_that_a_name_resolves_to_twice_is_listened_on_once(
    monkeypatch: pytest.MonkeyPatch, port: int
) -> None:
    resolving_to(monkeypatch, "127.0.0.1", "127.0.0.1", "127.0.0.2")
    assert opened(port) == ["127.0.0.1", "127.0.0.2"]


def test_an_address_that_this_machine_lacks_is_skipped(monkeypatch: pytest.MonkeyPatch, port: int) -> None:
    resolving_to(monkeypatch, "192.0.2.1", "127.0.0.1")
    assert opened(port) == ["127.0.0.1"]
    resolving_to(monkeypatch, "192.0.2.1")
    with pytest.raises(SettingsError, match="HTTP_PORT: cannot listen on localhost port"):
        opened(port)


def test_a_port_that_is_taken_names_its_setting(port: int) -> None:
    said = f"HTTP_PORT: cannot listen on 127.0.0.1 port {port}"
    with socket.create_server(("127.0.0.1", port)), pytest.raises(SettingsError, match=said):
        listeners("127.0.0.1", port, "HTTP_PORT")


def test_no_socket_is_left_open_when_one_cannot_be_opened(monkeypatch: pytest.MonkeyPatch, port: int) -> None:
    resolving_to(monkeypatch, "127.0.0.1", "127.0.0.2")
    with socket.create_server(("127.0.0.2", port)), pytest.raises(SettingsError):
        opened(port)
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) == errno.ECONNREFUSED
