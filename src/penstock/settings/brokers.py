"""Settings of RabbitMQ and Redis, which are optional."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Final

from penstock.masking import Secret
from penstock.settings.kinds import (
    DAY,
    SECOND,
    duration,
    flag,
    folder,
    host_port,
    integer,
    port,
    secret,
    several,
    short_text,
)
from penstock.settings.variable import Known, Relation, setting


def _rabbitmq_port(known: Known) -> int:
    """5672; with TLS 5671"""
    return 5671 if known.get("rabbitmq_tls") else 5672


@dataclass(frozen=True, kw_only=True, repr=False)
class BrokerSettings:
    """RabbitMQ and Redis."""

    rabbitmq_host: tuple[str, ...] = setting(
        several(host_port),
        (),
        "RabbitMQ, or the nodes of its cluster: host or host:port, comma-separated; unset: none is used",
    )
    rabbitmq_tls: bool = setting(flag, False, "connect with TLS only, and check the server's certificate and its name")
    rabbitmq_port: int = setting(port, derived=_rabbitmq_port, meaning="its port, where RABBITMQ_HOST names none")
    rabbitmq_user: str = setting(short_text(255), "guest", "its user")
    rabbitmq_pass: Secret | None = setting(secret, None, "the user's password; unset: guest")
    rabbitmq_vhost: str = setting(short_text(255), "/", "its virtual host")
    rabbitmq_ca_file: Path | None = setting(
        folder, None, "authorities that may have issued that certificate, in PEM; unset: those of the system"
    )
    rabbitmq_cert_file: Path | None = setting(folder, None, "certificate of this process, if the server requires one")
    rabbitmq_key_file: Path | None = setting(folder, None, "its key; unset: it is in RABBITMQ_CERT_FILE")
    redis_host: str | None = setting(host_port, None, "Redis: host or host:port; unset: none is used")
    redis_port: int = setting(port, 6379, "its port, where REDIS_HOST names none")
    redis_pass: Secret | None = setting(secret, None, "its password, if it has one")
    redis_tls: bool = setting(flag, False, "connect with TLS only, and check the server's certificate and its name")
    redis_ca_file: Path | None = setting(
        folder, None, "authorities that may have issued that certificate, in PEM; unset: those of the system"
    )
    redis_cert_file: Path | None = setting(folder, None, "certificate of this process, if the server requires one")
    redis_key_file: Path | None = setting(folder, None, "its key; unset: it is in REDIS_CERT_FILE")
    redis_db_name: int = setting(integer(0, 65_535), 0, "the number of its database")
    penstock_result_ttl: timedelta = setting(
        duration(SECOND, 30 * DAY), timedelta(hours=1), "how long Redis keeps the results of completed jobs"
    )


def _needs_tls(tls: bool, *files: Path | None) -> str | None:
    if tls or not any(files):
        return None
    return "must be true where a file of certificates is named, or the connection would be plain"


def _needs_certificate(certificate: Path | None, key: Path | None) -> str | None:
    return "is the key of a certificate, which must be named too" if key is not None and certificate is None else None


RELATIONS: Final = tuple(
    relation
    for prefix in ("rabbitmq", "redis")
    for relation in (
        Relation(
            blames=f"{prefix}_tls",
            over=(f"{prefix}_tls", f"{prefix}_ca_file", f"{prefix}_cert_file", f"{prefix}_key_file"),
            problem=_needs_tls,
        ),
        Relation(
            blames=f"{prefix}_key_file", over=(f"{prefix}_cert_file", f"{prefix}_key_file"), problem=_needs_certificate
        ),
    )
)
