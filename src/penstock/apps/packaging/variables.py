"""The variables of a deployed app, in groups: names, defaults, and which of them need a value of the operator."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from penstock.apps.layout import APP_PORT, APP_PORT_VARIABLE, Layout

Update = Literal["required", "update", ""]


@dataclass(frozen=True, slots=True, kw_only=True)
class Variable:
    """One line of ``.env``.

    ``update`` is "required" if nothing starts without a value, "update" if the default fits no real deployment, and
    empty if the default may stay.
    """

    name: str
    default: str = ""
    meaning: str = ""
    update: Update = ""


Group = tuple[str, Sequence[Variable]]

_STORES: Final[Sequence[Group]] = (
    (
        "Database",
        (
            Variable(name="POSTGRES_USER", default="aimarketAdmin"),
            Variable(
                name="POSTGRES_PASSWORD",
                default="aimarketPassword",
                meaning="used when the database is made; no port of it is published",
            ),
            Variable(name="POSTGRES_DB", default="aimarketDb"),
        ),
    ),
    (
        "S3 storage",
        (
            Variable(
                name="PENSTOCK_BLOB_URL",
                default="postgres",
                meaning="where media are kept, such as s3://BUCKET/PREFIX; postgres: in the database",
                update="update",
            ),
            Variable(name="PENSTOCK_BLOB_ENDPOINT", meaning="a server that speaks S3; empty: Amazon's"),
            Variable(name="AWS_REGION_NAME", meaning="region of the bucket", update="update"),
            Variable(name="AWS_ACCESS_KEY", meaning="access key of the bucket", update="update"),
            Variable(name="AWS_SECRET_KEY", meaning="secret key of the bucket", update="update"),
        ),
    ),
    (
        "RabbitMQ (optional: empty RABBITMQ_HOST leaves it out)",
        (
            Variable(name="RABBITMQ_HOST", default="aimarket_rabbitmq"),
            Variable(name="RABBITMQ_VHOST", default="aiqrbroker"),
            Variable(name="RABBITMQ_USER", default="aiqradmin"),
            Variable(name="RABBITMQ_PASS", default="aiqrPassword"),
            Variable(name="RABBITMQ_PORT", default="5672"),
            Variable(name="RABBITMQ_UI_PORT", default="15672", meaning="its console, on this host only"),
        ),
    ),
    (
        "Redis (optional: empty REDIS_HOST leaves it out)",
        (
            Variable(name="REDIS_HOST", default="aimarket_redis"),
            Variable(name="REDIS_PORT", default="6379"),
            Variable(name="REDIS_DB_NAME", default="0"),
        ),
    ),
    (
        "MarketPlace",
        (
            Variable(name="MARKETPLACE_TOKEN", meaning="bearer token that is sent with every result", update="update"),
            Variable(
                name="MARKETPLACE_CALLBACK",
                meaning="URL that gets every final result; empty: results are only read",
                update="update",
            ),
        ),
    ),
)
_ACCESS: Final[Group] = (
    "Access",
    (
        Variable(
            name="AI_SERVICE_TOKEN",
            meaning="bearer token of the operator; make one with: openssl rand -hex 32",
            update="required",
        ),
        Variable(
            name="PENSTOCK_SECRET_KEY",
            meaning="protects secrets in the database; make one with: openssl rand -base64 32",
            update="required",
        ),
        Variable(name="PENSTOCK_URL", meaning="address of the app's API as its users reach it", update="update"),
    ),
)


def groups_of(layout: Layout, *, registry: str, repository: str) -> list[Group]:
    """Return all variables of a deployed app."""
    ports = {service.port_variable: service.port for service in layout.services}
    own = {"API_VERSION": layout.version, "API_NAME": layout.title}
    service = [
        Variable(
            name=APP_PORT_VARIABLE, default=str(APP_PORT), meaning="port of the app's API on this host", update="update"
        ),
        *(Variable(name=name, default=str(port)) for name, port in ports.items()),
        *(Variable(name=name, default=value) for name, value in layout.variables.items() if name not in own),
        Variable(name="GPU_ID", default="0", meaning="the GPU of the workers, with docker-compose.gpu.yml"),
        Variable(
            name="WORKER_LEASE_TIMEOUT",
            default="1m",
            meaning="after this time, tasks of a killed container are begun again",
        ),
        Variable(name="API_VERSION", default=layout.tag, meaning="tag of the images"),
        Variable(name="API_NAME", default=layout.title),
    ]
    images = (
        Variable(name="REGISTRY", default=registry, meaning="registry of the images", update="update"),
        Variable(name="REPOSITORY", default=repository, meaning="repository of the images", update="update"),
    )
    return [("Images", images), _ACCESS, ("AI Service", service), *_STORES]


def defaults_of(groups: Sequence[Group]) -> dict[str, str]:
    return {one.name: one.default for _, members in groups for one in members}
