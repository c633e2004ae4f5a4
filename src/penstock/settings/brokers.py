"""Settings of RabbitMQ, which is optional."""

from __future__ import annotations

from dataclasses import dataclass

from penstock.masking import Secret
from penstock.settings.kinds import host_port, port, secret, several, short_text
from penstock.settings.variable import setting


@dataclass(frozen=True, kw_only=True, repr=False)
class BrokerSettings:
    """RabbitMQ."""

    rabbitmq_host: tuple[str, ...] = setting(
        several(host_port),
        (),
        "RabbitMQ, or the nodes of its cluster: host or host:port, comma-separated; unset: none is used",
    )
    rabbitmq_port: int = setting(port, 5672, "its port, where RABBITMQ_HOST names none")
    rabbitmq_user: str = setting(short_text(255), "guest", "its user")
    rabbitmq_pass: Secret | None = setting(secret, None, "the user's password; unset: guest")
    rabbitmq_vhost: str = setting(short_text(255), "/", "its virtual host")
