"""The base of the classes of run routes."""

from __future__ import annotations

from typing import Any, Final
from uuid import UUID

import msgspec

from penstock.errors import NotFound
from penstock.flows.service import FlowService
from penstock.jobs.http.allowed import reads
from penstock.web.request import Request
from penstock.web.route import PathParameter

RUN_ID: Final = PathParameter(name="id", type=UUID, description="the run's id", subject="run")


class RunRoutes:
    """Handlers that use one service of flows."""

    def __init__(self, service: FlowService) -> None:
        self._service = service

    async def readable(self, request: Request, run_id: UUID) -> None:
        """Raise NotFound for a run of a flow that the sender's key may not use."""
        run = await self._service.run(request.principal.tenant, run_id)
        if not reads(request.principal, run):
            raise NotFound(f"there is no run {run_id}")


def fits(text: str, kind: Any) -> bool:
    try:
        msgspec.convert(text, kind)
    except msgspec.ValidationError:
        return False
    return True
