"""Settings of RabbitMQ and Redis, which are optional."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from penstock.masking import Secret
from penstock.settings.kinds import DAY, SECOND, duration, host_port, integer, port, secret, several, short_text
from penstock.settings.variable import setting


@dataclass(frozen=True, kw_only=True, repr=False)
class BrokerSettings:
    """RabbitMQ and Redis."""

    rabbitmq_host: tuple[str, ...] = setting(
        several(host_port),
        (),
        "RabbitMQ, or the nodes of its cluster: host or host:port, comma-separated; unset: none is used",
    )
    rabbitmq_port: int = setting(port, 5672, "its port, where RABBITMQ_HOST names none")
    rabbitmq_user: str = setting(short_text(255), "guest", "its user")
    rabbitmq_pass: Secret | None = setting(secret, None, "the user's password; unset: guest")
    rabbitmq_vhost: str = setting(short_text(255), "/", "its virtual host")
    redis_host: str | None = setting(host_port, None, "Redis: host or host:port; unset: none is used")
    redis_port: int = setting(port, 6379, "its port, where REDIS_HOST names none")
    redis_pass: Secret | None = setting(secret, None, "its password, if it has one")
    redis_db_name: int = setting(integer(0, 65_535), 0, "the number of its database")
    penstock_result_ttl: timedelta = setting(
        duration(SECOND, 30 * DAY), timedelta(hours=1), "how long Redis keeps the results of completed jobs"
    )
