"""``GET /api/v1/providers/status``: the state of the providers."""

from __future__ import annotations

from typing import Any, Final

from penstock.providers.status import ProvidersStatus, ProvidersWatch
from penstock.tenants import scopes
from penstock.web.request import Request
from penstock.web.response import Response, json_response
from penstock.web.route import ResponseSpec, route

_EXAMPLE: Final[dict[str, Any]] = {
    "providers": [
        {
            "name": "llm",
            "configured": True,
            "kind": "chat",
            "model": "qwen2.5-14b",
            "profiles": ["qwen2.5-14b"],
            "reachable": True,
            "latency_ms": 4.2,
            "models": ["qwen2.5-14b"],
            "error": None,
            "breaker": "closed",
            "wait_seconds": 0.0,
            "running": 2,
            "last_error": {
                "category": "rate_limited",
                "message": "the provider limits us (429)",
                "at": "2026-01-30T09:00:00Z",
            },
            "workers": 1,
        },
        {"name": "whisperx", "configured": False},
    ]
}


class ProviderStatusRoutes:
    """The endpoint that returns the state of all providers."""

    def __init__(self, watch: ProvidersWatch) -> None:
        self._watch = watch

    @route(
        "GET",
        "/api/v1/providers/status",
        name="providersStatus",
        tag="System",
        scope=scopes.OPERATOR,
        summary="Check whether the configured AI providers can be reached, and get their state in the workers",
        responses={200: ResponseSpec(description="Each provider", type=ProvidersStatus, example=_EXAMPLE)},
    )
    async def status(self, request: Request) -> Response:
        request.query({})
        return json_response(await self._watch.status())
