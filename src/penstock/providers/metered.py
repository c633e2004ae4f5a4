"""A provider's gate for the calls of one request, which measures the time and the usage of each."""

from __future__ import annotations

import time

from penstock.failures import CallFailed
from penstock.outbound.gate import Gate
from penstock.providers.reply import Used


class ChargedFailure(CallFailed):
    """A failed call whose work the provider did and charges for."""

    def __init__(self, message: str, used: Used) -> None:
        super().__init__("bad_input", message)
        self.used = used


class MeteredGate:
    """A provider's gate for the calls of one candidate: ``async with gate.slot():`` around each.

    It counts the time that the provider takes, and through ``paid`` the usage of calls before one that fails.
    """

    def __init__(self, gate: Gate, max_wait_seconds: float) -> None:
        self.seconds = 0.0  # the time that the provider has taken
        self.entered = False  # whether a call has begun
        self.used = Used()
        self.gate = gate
        self._max_wait_seconds = max_wait_seconds

    def slot(self, max_wait_seconds: float | None = None) -> MeteredSlot:
        """Make one call inside the block. Entering raises GateClosed when the gate stays closed for more than
        ``max_wait_seconds``, which is the limit of this object by default."""
        return MeteredSlot(self, self._max_wait_seconds if max_wait_seconds is None else max_wait_seconds)

    def paid(self, used: Used) -> None:
        """Count the usage of a successful call, because the candidate may still fail."""
        self.used = Used(
            prompt_tokens=self.used.prompt_tokens + used.prompt_tokens,
            completion_tokens=self.used.completion_tokens + used.completion_tokens,
            audio_seconds=self.used.audio_seconds + used.audio_seconds,
        )

    @property
    def duration_ms(self) -> int:
        return round(1000 * self.seconds)


class MeteredSlot:
    """One call through a metered gate."""

    __slots__ = ("_began", "_gate", "_max_wait_seconds", "_trial")

    def __init__(self, gate: MeteredGate, max_wait_seconds: float) -> None:
        self._gate = gate
        self._max_wait_seconds = max_wait_seconds
        self._began = 0.0
        self._trial = False

    async def __aenter__(self) -> None:
        self._trial = await self._gate.gate.enter(self._max_wait_seconds)
        self._gate.entered = True
        self._began = time.monotonic()

    async def __aexit__(self, _: object, error: BaseException | None, __: object) -> None:
        self._gate.seconds += time.monotonic() - self._began
        if isinstance(error, ChargedFailure):
            self._gate.paid(error.used)
        self._gate.gate.leave(error, trial=self._trial)
