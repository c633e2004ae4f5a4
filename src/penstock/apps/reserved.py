"""The environment variables that every deployment has for Penstock and its stores, so that apps cannot have them."""

from __future__ import annotations

from typing import Final

OVERRIDABLE: Final = frozenset({"API_NAME", "API_VERSION"})  # apps may state them among their variables
RESERVED: Final = OVERRIDABLE | {
    "AI_SERVICE_TOKEN",
    "APP_API_PORT",
    "AWS_ACCESS_KEY",
    "AWS_REGION_NAME",
    "AWS_SECRET_KEY",
    "GPU_ID",
    "MARKETPLACE_CALLBACK",
    "MARKETPLACE_TOKEN",
    "PENSTOCK_BLOB_ENDPOINT",
    "PENSTOCK_BLOB_URL",
    "PENSTOCK_SECRET_KEY",
    "PENSTOCK_URL",
    "POSTGRES_DB",
    "POSTGRES_HOST",
    "POSTGRES_PASSWORD",
    "POSTGRES_USER",
    "RABBITMQ_HOST",
    "RABBITMQ_PASS",
    "RABBITMQ_PORT",
    "RABBITMQ_UI_PORT",
    "RABBITMQ_USER",
    "RABBITMQ_VHOST",
    "REDIS_DB_NAME",
    "REDIS_HOST",
    "REDIS_PORT",
    "REGISTRY",
    "REPOSITORY",
    "WORKER_HTTP_PORT",
    "WORKER_LEASE_TIMEOUT",
}
