"""Free ports: outside the range of outgoing connections, consecutive on request, and none given twice."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from penstock.supervisor import ports


def _only(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, low: int, high: int) -> None:
    """Leave ``low`` to ``high`` to choose from: outgoing connections take all above."""
    taken = tmp_path / "ip_local_port_range"
    taken.write_text(f"{high + 1}\t65535\n")
    monkeypatch.setattr(ports, "_LOCAL_RANGE", taken)
    monkeypatch.setattr(ports, "_LOWEST", low)
    monkeypatch.setattr(ports, "_given", set())
    monkeypatch.setattr(ports, "_share", (0, 1))


def test_no_outgoing_connection_can_take_a_free_port(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _only(monkeypatch, tmp_path, 20_000, 29_999)
    assert all(20_000 <= ports.free_port() <= 29_999 for _ in range(50))
    monkeypatch.setattr(ports, "_LOCAL_RANGE", tmp_path / "not there")
    assert all(20_000 <= ports.free_port() < 49_152 for _ in range(50))


def test_ports_can_be_consecutive_and_none_is_given_twice() -> None:
    given = [ports.free_port(3) for _ in range(20)]
    assert len({port for first in given for port in range(first, first + 3)}) == 60


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_a_port_that_is_listened_on_is_not_given(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, host: str) -> None:
    first = ports.free_port(3)
    _only(monkeypatch, tmp_path, first, first + 2)
    with socket.socket() as listening:
        listening.bind((host, first + 1))
        listening.listen()
        assert {ports.free_port(), ports.free_port()} == {first, first + 2}


def test_processes_with_shares_never_get_the_same_port(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _only(monkeypatch, tmp_path, 20_000, 20_100)
    given = []
    for index in range(3):
        monkeypatch.setattr(ports, "_given", set())  # as in another process
        ports.use_share(index, 3)
        given += [{ports.free_port() for _ in range(20)}]
    assert len(set.union(*given)) == 60


def test_the_system_chooses_where_outgoing_connections_may_take_all_ports(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    _only(monkeypatch, tmp_path, 1024, 1023)
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", ports.free_port()))
