"""Settings of the gateway: who may call it, where it listens, and the size of requests."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from penstock.masking import Secret
from penstock.settings.kinds import (
    HOUR,
    MEBIBYTE,
    SECOND,
    duration,
    header_secret,
    http_url,
    instance_secret,
    port,
    size,
    text,
)
from penstock.settings.variable import Known, Relation, setting


def _host(known: Known) -> str:
    """`0.0.0.0`; without a token `127.0.0.1`."""
    # Without a token the API is open to anyone who can connect, so by default it listens on this machine only.
    return "0.0.0.0" if known.get("ai_service_token") else "127.0.0.1"  # noqa: S104


def _own_gateway(known: Known) -> str:
    """`http://127.0.0.1:8080`."""
    return f"http://127.0.0.1:{known.get('http_port') or 8080}"


@dataclass(frozen=True, kw_only=True, repr=False)
class GatewaySettings:
    """The gateway."""

    ai_service_token: Secret | None = setting(header_secret, None, "bearer token that every /api/v1 request must have")
    penstock_secret_key: Secret | None = setting(
        instance_secret,
        None,
        "secret of the installation, 32 bytes as base64, the same on all hosts of a database; two, the new one first, "
        "while it is rotated; unset: secret.key in PENSTOCK_DATA_DIR, made when it is first needed",
    )
    penstock_auth_stale: timedelta = setting(
        duration(SECOND, HOUR), timedelta(seconds=60), "how long known keys are valid while the database is unavailable"
    )
    http_host: str = setting(
        text, derived=_host, meaning="address of the gateway; without AI_SERVICE_TOKEN only a loopback address"
    )
    http_port: int = setting(port, 8080, "port of the gateway; 0 chooses a free one")
    penstock_url: str = setting(
        http_url, derived=_own_gateway, meaning="the gateway that penstock job and penstock stats call"
    )
    penstock_key: Secret | None = setting(
        header_secret,
        None,
        "the key with which commands, and workers with PENSTOCK_MODELS_URL, call a gateway; unset: AI_SERVICE_TOKEN",
    )
    penstock_tenant: str | None = setting(
        text, None, "the tenant for which an operator's commands call that gateway, unless --tenant states one"
    )
    penstock_max_call_bytes: int = setting(size, 64 * MEBIBYTE, "largest body of a live call to a model")


def is_loopback(host: str) -> bool:
    """Return whether only this machine can connect to a server that listens on ``host``."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _open_only_to_this_machine(token: Secret | None, host: str) -> str | None:
    if token is not None or is_loopback(host):
        return None
    return (
        "without AI_SERVICE_TOKEN the API is open to everyone who can reach this address: "
        "set AI_SERVICE_TOKEN, or listen on 127.0.0.1"
    )


RELATIONS: Final = (
    Relation(blames="http_host", over=("ai_service_token", "http_host"), problem=_open_only_to_this_machine),
)
