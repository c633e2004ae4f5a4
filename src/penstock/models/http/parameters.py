"""Parameters that several routes of models use."""

from __future__ import annotations

from typing import Final

from penstock.errors import InvalidInput
from penstock.models.reader import Reader
from penstock.web.request import Request
from penstock.web.route import Parameter, PathParameter

TAG: Final = "Models"
NAME: Final = PathParameter(name="name", description="the model's name")
VERSION: Final = Parameter(name="version", type=str, description="a version; without it the newest")


def reader_of(request: Request) -> Reader:
    """Return which models the sender sees. An operator without the header ``Penstock-Tenant`` sees the operator's."""
    principal = request.principal
    if principal.operator and b"penstock-tenant" not in request.headers:
        return Reader(models=principal.models)
    return Reader(tenant=principal.tenant_name, models=principal.models)


def version_of(query: dict[str, list[str]]) -> str | None:
    """Return the version that a query names."""
    return query["version"][0] if "version" in query else None


def flag(query: dict[str, list[str]], name: str) -> bool:
    """Return a query parameter that is true or false; raises InvalidInput."""
    value = query.get(name, ["false"])[0].lower()
    if value not in {"true", "false", "1", "0"}:
        raise InvalidInput.of(name, "must be true or false")
    return value in {"true", "1"}


def wants_events(request: Request) -> bool:
    """Return whether a client requests server-sent events."""
    return "text/event-stream" in (request.header(b"accept") or "")
