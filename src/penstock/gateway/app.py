"""The gateway: the routes of all parts behind one access check, and their start and stop."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack

from penstock.access.check import Access
from penstock.gateway.documentation import ABOUT, DocumentationRoutes, page_routes
from penstock.part import Part, started
from penstock.processes.signal import Signal
from penstock.settings import Settings
from penstock.web.dispatch import Dispatcher
from penstock.web.openapi import document
from penstock.web.route import AnyRoute, routes_of


class Gateway:
    """The routes of a gateway behind its access check, in ``application``.

    ``stopping`` is set when the process begins to stop: long-polls and streams end then.
    """

    def __init__(self, settings: Settings, access: Access, parts: Sequence[Part]) -> None:
        self.stopping = Signal()
        self._parts = parts
        self._running = AsyncExitStack()
        self.access = access
        documentation = DocumentationRoutes(
            lambda guarded: document(self.routes, ABOUT, secured=guarded), lambda: access.guarded
        )
        self.routes: list[AnyRoute] = [
            *(route for part in parts for route in part.routes),
            *routes_of(documentation),
            *page_routes(),
        ]
        self.application = Dispatcher(
            self.routes,
            self.access.check,
            fallbacks=[fallback for part in parts for fallback in part.fallbacks],
            log_requests=settings.penstock_log_level == "debug",
        )

    async def start(self) -> None:
        """Start all parts, in order; the database may be unavailable."""
        await self._running.enter_async_context(started(self._parts))

    async def stop(self) -> None:
        """End long-polls and streams, then stop the parts in reverse order, which writes what is queued."""
        self.stopping.set()
        await self._running.aclose()
