"""TLS to RabbitMQ and Redis: real servers, and every way in which a certificate can be wrong."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import structlog

from penstock.brokers.broker import Broker
from penstock.brokers.rabbitmq import RabbitAddress, RabbitMQ
from penstock.brokers.redis import Redis, RedisAddress
from penstock.brokers.tls import Tls
from penstock.errors import SettingsError
from penstock.masking import Secret
from penstock.settings import load_settings
from tests.support.brokers import needs_rabbitmq, needs_redis, rabbitmq_server, redis_server
from tests.support.certificates import Authority, Issued
from tests.support.waiting import until, within


@dataclass(frozen=True)
class Kind:
    """One of the two brokers."""

    prefix: str

    @asynccontextmanager
    async def server(self, folder: Path, tls: Issued | None, *, asks: bool = False) -> AsyncIterator[int]:
        if self.prefix == "REDIS":
            async with redis_server(folder / "redis", tls=tls, asks=asks) as server:
                yield server.port
        else:
            async with rabbitmq_server(folder / "rabbitmq", tls=tls, asks=asks) as server:
                yield server.port

    def broker(self, port: int, tls: Tls | None) -> Broker:
        tls = None if tls is None else replace(tls, prefix=self.prefix)
        if self.prefix == "REDIS":
            return Redis(RedisAddress(host="127.0.0.1", port=port, tls=tls))
        guest = Secret("guest")
        return RabbitMQ(RabbitAddress(nodes=[("127.0.0.1", port)], user="guest", password=guest, vhost="/", tls=tls))


@pytest.fixture(params=[pytest.param("REDIS", marks=needs_redis()), pytest.param("RABBITMQ", marks=needs_rabbitmq())])
def kind(request: pytest.FixtureRequest) -> Kind:
    return Kind(request.param)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "ours")


async def reason(broker: Broker) -> str:
    """Start a broker that cannot connect; return why, as it is logged."""
    with structlog.testing.capture_logs() as lines:
        await broker.start()
        try:
            await until(lambda: any("unavailable" in line["event"] for line in lines), "the failure is logged")
            assert not broker.connected.is_set()
        finally:
            await broker.stop()
    return str(next(line["reason"] for line in lines if "unavailable" in line["event"]))


async def connects(broker: Broker) -> None:
    await broker.start()
    try:
        await within(broker.connected.wait())
    finally:
        await broker.stop()


async def test_valid_and_unknown_certificates(kind: Kind, authority: Authority, tmp_path: Path) -> None:
    """A plain connection to a server with TLS fails, and so does TLS with another authority than the server's."""
    async with kind.server(tmp_path, authority.issue()) as port:
        await connects(kind.broker(port, Tls(prefix="", ca=authority.file)))
        for unknown in (Authority(tmp_path, "others").file, None):
            said = await reason(kind.broker(port, Tls(prefix="", ca=unknown)))
            assert said.startswith("the certificate of 127.0.0.1 is not accepted: ")
            assert f"its issuer must be in {kind.prefix}_CA_FILE" in said
        await reason(kind.broker(port, None))


@pytest.mark.parametrize(
    ("host", "expired", "words"),
    [("elsewhere.example", False, "not valid for '127.0.0.1'"), ("127.0.0.1", True, "certificate has expired")],
)
async def test_wrong_certificates(
    kind: Kind, authority: Authority, tmp_path: Path, host: str, expired: bool, words: str
) -> None:
    async with kind.server(tmp_path, authority.issue(host, expired=expired)) as port:
        said = await reason(kind.broker(port, Tls(prefix="", ca=authority.file)))
        assert words in said
        assert f"{kind.prefix}_HOST" in said


async def test_certificates_of_clients(kind: Kind, authority: Authority, tmp_path: Path) -> None:
    """A server may require one."""
    ours = authority.issue("client.example")
    tls = Tls(prefix="", ca=authority.file, certificate=ours.certificate, key=ours.key)
    async with kind.server(tmp_path, authority.issue(), asks=True) as port:
        await connects(kind.broker(port, tls))
        assert await reason(kind.broker(port, Tls(prefix="", ca=authority.file)))


async def test_a_plain_server_is_not_used_with_tls(kind: Kind, authority: Authority) -> None:
    """Nothing is sent to it but the beginning of TLS."""
    received: list[bytes] = []

    async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received.append(await reader.read(2**16))
        writer.write(b"-ERR unknown command\r\n")
        writer.close()

    server = await asyncio.start_server(plain, "127.0.0.1", 0, family=socket.AF_INET)
    async with server:
        port: int = server.sockets[0].getsockname()[1]
        said = await reason(kind.broker(port, Tls(prefix="", ca=authority.file)))
    assert said == f"127.0.0.1 does not speak TLS on this port, which {kind.prefix}_TLS requires"
    assert all(data[:1] == b"\x16" for data in received)  # the record of a handshake


def test_files_that_cannot_be_used_are_named(tmp_path: Path, authority: Authority) -> None:
    """At the start, before anything is connected."""
    (tmp_path / "empty").write_text("")
    ours, others = authority.issue(), authority.issue("others.example")
    for setting, tls in (
        ("REDIS_CA_FILE", Tls(prefix="REDIS", ca=tmp_path / "missing")),
        ("REDIS_CA_FILE", Tls(prefix="REDIS", ca=tmp_path / "empty")),
        ("REDIS_CERT_FILE", Tls(prefix="REDIS", certificate=tmp_path / "missing")),
        ("REDIS_CERT_FILE", Tls(prefix="REDIS", certificate=ours.certificate, key=others.key)),
        ("REDIS_CERT_FILE", Tls(prefix="REDIS", certificate=ours.certificate)),
    ):
        with pytest.raises(SettingsError) as caught:
            tls.context()
        assert [problem.field for problem in caught.value.problems] == [setting]


def test_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A file without TLS is a mistake: the connection would be plain."""
    monkeypatch.setenv("RABBITMQ_HOST", "broker")
    monkeypatch.setenv("RABBITMQ_TLS", "true")
    monkeypatch.setenv("RABBITMQ_CA_FILE", str(tmp_path / "ca"))
    address = RabbitAddress.from_settings(load_settings(None))
    assert address is not None
    assert address.nodes == [("broker", 5671)]
    assert address.tls == Tls(prefix="RABBITMQ", ca=tmp_path / "ca")
    monkeypatch.setenv("RABBITMQ_TLS", "false")
    monkeypatch.setenv("REDIS_KEY_FILE", "/key")
    with pytest.raises(SettingsError) as caught:
        load_settings(None)
    assert {problem.field for problem in caught.value.problems} == {"RABBITMQ_TLS", "REDIS_TLS", "REDIS_KEY_FILE"}
