"""The connection to Redis."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import structlog

from penstock.brokers.addresses import split
from penstock.brokers.broker import Broker, BrokerUnavailable, reason_of
from penstock.brokers.packages import require
from penstock.brokers.tls import Tls
from penstock.masking import Secret
from penstock.settings.brokers import BrokerSettings

if TYPE_CHECKING:
    from redis.asyncio import Redis as Client

log = structlog.get_logger("penstock.redis")

_CONNECT_SECONDS: Final = 2.0
_RESPOND_SECONDS: Final = 0.5  # a slow Redis is not worth waiting for
_CHECK_SECONDS: Final = 1.0
_CONNECTIONS: Final = 16


@dataclass(frozen=True, kw_only=True)
class RedisAddress:
    """The address of Redis, the number of the database, and the password."""

    host: str
    port: int
    database: int = 0
    password: Secret | None = None
    tls: Tls | None = None

    @classmethod
    def from_settings(cls, settings: BrokerSettings) -> RedisAddress | None:
        """Return the address, or None if Redis is not used."""
        if settings.redis_host is None:
            return None
        host, port = split(settings.redis_host, settings.redis_port)
        tls = Tls(
            prefix="REDIS",
            ca=settings.redis_ca_file,
            certificate=settings.redis_cert_file,
            key=settings.redis_key_file,
        )
        return cls(
            host=host,
            port=port,
            database=settings.redis_db_name,
            password=settings.redis_pass,
            tls=tls if settings.redis_tls else None,
        )


class Redis(Broker):
    """The connections of this process. While Redis does not respond, it is not used, and checked once a second."""

    name = "redis"

    def __init__(self, address: RedisAddress) -> None:
        super().__init__()
        require("redis", "REDIS_HOST")
        self._address = address
        if address.tls is not None:
            address.tls.context()  # so that files which cannot be used are refused at the start
        self._client: Client | None = None

    @contextmanager
    def client(self) -> Iterator[Client]:
        """Yield the client. Raises BrokerUnavailable, also for errors in the block."""
        from redis.exceptions import RedisError  # noqa: PLC0415  (the package is optional)

        if self._client is None or not self.connected.is_set():
            raise BrokerUnavailable("Redis is not connected")
        try:
            yield self._client
            _raise_cancelled()
        except (RedisError, OSError, TimeoutError) as error:
            self._is_connected(False)
            raise BrokerUnavailable(f"Redis has failed: {reason_of(error)}") from error

    async def _stay_connected(self) -> None:
        client = self._client = self._open()
        reported = False
        try:
            while True:
                try:
                    await client.ping()
                    _raise_cancelled()
                except Exception as error:  # noqa: BLE001 - whatever the driver raises, the next check may succeed
                    self._is_connected(False)
                    if not reported:
                        log.warning("redis_unavailable", host=self._address.host, reason=self._reason(error))
                    reported = True
                else:
                    if not self.connected.is_set():
                        log.info("redis_connected", host=self._address.host, port=self._address.port)
                    self._is_connected(True)
                    reported = False
                await asyncio.sleep(_CHECK_SECONDS)
        finally:
            self._is_connected(False)
            self._client = None
            await client.aclose()

    def _reason(self, error: Exception) -> str:
        address = self._address
        return (None if address.tls is None else address.tls.reason(error, address.host)) or reason_of(error)

    def _open(self) -> Client:
        from redis.asyncio import BlockingConnectionPool  # noqa: PLC0415  (the package is optional)
        from redis.asyncio import Redis as Client  # noqa: PLC0415

        address = self._address
        pool = BlockingConnectionPool(
            host=address.host,
            port=address.port,
            db=address.database,
            password=None if address.password is None else address.password.reveal(),
            max_connections=_CONNECTIONS,
            timeout=_RESPOND_SECONDS,
            socket_connect_timeout=_CONNECT_SECONDS,
            socket_timeout=_RESPOND_SECONDS,
            **({} if address.tls is None else _options(address.tls)),
        )
        return Client.from_pool(pool)


def _options(tls: Tls) -> dict[str, Any]:
    """Return the options of the driver for connections with TLS."""
    from redis.asyncio import SSLConnection  # noqa: PLC0415  (the package is optional)

    return {
        "connection_class": SSLConnection,
        "ssl_cert_reqs": "required",
        "ssl_check_hostname": True,
        "ssl_ca_certs": None if tls.ca is None else str(tls.ca),
        "ssl_certfile": None if tls.certificate is None else str(tls.certificate),
        "ssl_keyfile": None if tls.certificate is None else str(tls.key or tls.certificate),
    }


def _raise_cancelled() -> None:
    """Raise CancelledError if this task was cancelled: the driver sometimes swallows that and returns a result."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError
