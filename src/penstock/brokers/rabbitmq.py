"""The connection to RabbitMQ: opened in the background, opened again whenever it is lost, to any node of a cluster."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

import structlog

from penstock.brokers.addresses import split
from penstock.brokers.broker import Broker, BrokerUnavailable, reason_of
from penstock.brokers.packages import require
from penstock.brokers.tls import Tls
from penstock.masking import Secret
from penstock.settings.brokers import BrokerSettings

if TYPE_CHECKING:
    from aio_pika.abc import AbstractChannel, AbstractConnection

log = structlog.get_logger("penstock.rabbitmq")

Setup = Callable[["AbstractChannel"], Awaitable[object]]

_JSON: Final = "application/json"
_CONNECT_SECONDS: Final = 5.0
_CONFIRM_SECONDS: Final = 5.0
_HEARTBEAT_SECONDS: Final = 10
_WORD_BYTES: Final = 120
_FIRST_PAUSE: Final = 0.1  # seconds between two tries to connect; it doubles
_LONGEST_PAUSE: Final = 5.0


@dataclass(frozen=True, kw_only=True)
class RabbitAddress:
    """The nodes of RabbitMQ, and the account to connect with."""

    nodes: Sequence[tuple[str, int]]
    user: str
    password: Secret
    vhost: str
    tls: Tls | None = None

    @classmethod
    def from_settings(cls, settings: BrokerSettings) -> RabbitAddress | None:
        """Return the address, or None if RabbitMQ is not used."""
        if not settings.rabbitmq_host:
            return None
        return cls(
            nodes=[split(node, settings.rabbitmq_port) for node in settings.rabbitmq_host],
            user=settings.rabbitmq_user,
            password=settings.rabbitmq_pass or Secret("guest"),
            vhost=settings.rabbitmq_vhost,
            tls=Tls(
                prefix="RABBITMQ",
                ca=settings.rabbitmq_ca_file,
                certificate=settings.rabbitmq_cert_file,
                key=settings.rabbitmq_key_file,
            )
            if settings.rabbitmq_tls
            else None,
        )


class RabbitMQ(Broker):
    """One connection of this process, opened in the background and again whenever it is lost.

    Each function passed to ``on_connect`` is called before ``connected`` is set, with the channel of every new
    connection; it declares the exchanges that messages are published to.
    """

    name = "rabbitmq"

    def __init__(self, address: RabbitAddress) -> None:
        super().__init__()
        require("aio_pika", "RABBITMQ_HOST")
        for driver in ("aio_pika", "aiormq"):  # they log each loss with a traceback; this class logs it in one line
            logging.getLogger(driver).setLevel(logging.CRITICAL)
        self._address = address
        self._tls = None if address.tls is None else address.tls.context()
        self._setups: list[Setup] = []
        self._connection: AbstractConnection | None = None
        self._channel: AbstractChannel | None = None  # for publishing

    def on_connect(self, setup: Setup) -> None:
        self._setups.append(setup)

    @asynccontextmanager
    async def channel(self) -> AsyncIterator[AbstractChannel]:
        """Open another channel, once there is a connection. Raises BrokerUnavailable, also for errors in the block."""
        await self.connected.wait()
        with _unavailable():
            if self._connection is None:
                raise BrokerUnavailable("RabbitMQ is not connected")
            async with self._connection.channel(publisher_confirms=False) as channel:
                yield channel

    async def publish(
        self, body: bytes, *, exchange: str, routing_key: str, content_type: str = _JSON, message_id: str | None = None
    ) -> None:
        """Publish a persistent message and wait until RabbitMQ has confirmed it. Raises BrokerUnavailable."""
        from aio_pika import DeliveryMode, Message  # noqa: PLC0415  (the package is optional)

        message = Message(body, content_type=content_type, delivery_mode=DeliveryMode.PERSISTENT, message_id=message_id)
        with _unavailable():
            if self._channel is None:
                raise BrokerUnavailable("RabbitMQ is not connected")
            target = await self._channel.get_exchange(exchange, ensure=False) if exchange else None
            async with asyncio.timeout(_CONFIRM_SECONDS):
                await (target or self._channel.default_exchange).publish(message, routing_key, mandatory=False)

    async def _stay_connected(self) -> None:
        pause, reported = _FIRST_PAUSE, False
        while True:
            for host, port in self._address.nodes:
                try:
                    await self._use(host, port)
                    log.warning("rabbitmq_lost", host=host, port=port)
                    pause, reported = _FIRST_PAUSE, False
                except Exception as error:  # noqa: BLE001 - whatever the driver raises, the next try may succeed
                    if not reported:
                        reason = self._reason(error, host)
                        log.warning("rabbitmq_unavailable", host=host, port=port, reason=reason)
                finally:
                    self._is_connected(False)
                    self._connection = self._channel = None
            reported = True
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    async def _use(self, host: str, port: int) -> None:
        """Connect to a node and stay connected until the connection or the channel is closed."""
        closed = asyncio.Event()
        async with await self._connect(host, port) as connection:
            connection.close_callbacks.add(lambda *_: closed.set())
            async with asyncio.timeout(_CONNECT_SECONDS):
                channel = await connection.channel(publisher_confirms=True)
                channel.close_callbacks.add(lambda *_: closed.set())
                for setup in self._setups:
                    await setup(channel)
            self._connection, self._channel = connection, channel
            self._is_connected(True)
            log.info("rabbitmq_connected", host=host, port=port)
            await closed.wait()

    def _reason(self, error: Exception, host: str) -> str:
        tls = self._address.tls
        return (None if tls is None else tls.reason(error, host)) or reason_of(error)

    async def _connect(self, host: str, port: int) -> AbstractConnection:
        import aio_pika  # noqa: PLC0415  (the package is optional)

        address = self._address
        return await aio_pika.connect(
            host=host,
            port=port,
            login=address.user,
            password=address.password.reveal(),
            virtualhost=address.vhost,
            timeout=_CONNECT_SECONDS,
            heartbeat=_HEARTBEAT_SECONDS,
            ssl=self._tls is not None,
            ssl_context=self._tls,
        )


@contextmanager
def _unavailable() -> Iterator[None]:
    """Raise BrokerUnavailable for the errors of a connection."""
    from aio_pika.exceptions import AMQPError  # noqa: PLC0415  (the package is optional)

    try:
        yield
    except (AMQPError, OSError, RuntimeError, TimeoutError) as error:
        raise BrokerUnavailable(f"RabbitMQ has failed: {reason_of(error)}") from error


def word(name: str) -> str:
    """Return a name as one word of a routing key, of at most 120 bytes: keys have at most 255.

    Characters that separate or match words are percent-encoded. A long name is replaced by its digest.
    """
    encoded = quote(name, safe="").replace(".", "%2E").replace("*", "%2A")
    return encoded if len(encoded) <= _WORD_BYTES else "~" + hashlib.sha256(name.encode()).hexdigest()
