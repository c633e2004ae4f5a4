"""The gate of a model whose server is elsewhere: its learned limits, and a breaker."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Final

from penstock.failures import CallFailed, Category
from penstock.models.replica.runtime import Spec
from penstock.outbound.gate import Gate, GateClosed
from penstock.outbound.peer import ObserveHead

_MAX_WAIT_SECONDS: Final = 20.0  # for a closed gate; a call that would wait longer fails at once and states the wait


class ServerGate:
    """The gate that every call of a model to its server passes.

    A model with a gate has one replica, so all calls of a host share the limits that the gate has learned.
    """

    def __init__(self, spec: Spec, *, name: str) -> None:
        self._gate = Gate(spec.concurrency, per_minute=spec.options.get("requests_per_minute"))
        self._max_wait_seconds = min(_MAX_WAIT_SECONDS, spec.timeout / 2)
        self._name = name

    @property
    def observe(self) -> ObserveHead:
        """Update the limits and the breaker from the head of a response."""
        return self._gate.observe

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """Make one call inside the block. Raises CallFailed (``rate_limited``) with the wait, before the server is
        called, while its rate limit is used up or its breaker is open after repeated failures."""
        try:
            async with self._gate.slot(self._max_wait_seconds):
                yield
        except GateClosed as closed:
            message = f"the {self._name} is not called for {closed.seconds:.0f} s: {closed.reason}"
            raise CallFailed(Category.RATE_LIMITED, message, retry_after=timedelta(seconds=closed.seconds)) from None
