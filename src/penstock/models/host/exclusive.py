"""Models of one group, such as several large ones on one GPU, are never loaded together. Queued work decides the turn.

A turn lasts at least as long as loading took, so that loading never costs more than half of the time. Then, or as soon
as its holder has nothing to do, the model that has waited longest comes next. Running calls are never cut short.
"""

from __future__ import annotations

import asyncio
import time
from functools import partial
from typing import Final

from penstock.models.host.deployment import Deployment
from penstock.models.host.turn import Turn
from penstock.telemetry import logs

log = logs.get(__name__)

_MIN_TURN_SECONDS: Final = 1.0


class Group:
    """The models of one group; grants one of them at a time the right to be loaded."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._holder: Deployment | None = None
        self._granted_at = 0.0
        self._turns: dict[Deployment, Turn] = {}
        self._waiting: dict[Deployment, None] = {}  # in the order of their requests
        self._change: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    def join(self, deployment: Deployment) -> None:
        """Add a deployment: from now on it is loaded only when its turn comes."""
        turn = Turn(partial(self._request, deployment), partial(self._idle, deployment))
        self._turns[deployment] = deployment.turn = turn

    def leave(self, deployment: Deployment) -> None:
        """Remove a member, which is no longer loaded."""
        self._turns.pop(deployment, None)
        self._waiting.pop(deployment, None)
        if self._holder is deployment:
            self._holder = None
        self._consider()

    def _request(self, deployment: Deployment) -> None:
        if deployment in self._turns and not self._turns[deployment].granted:
            self._waiting.setdefault(deployment)
            self._consider()

    def _idle(self, deployment: Deployment) -> None:
        if self._waiting and self._holder is deployment:
            self._consider()

    def _consider(self) -> None:
        if self._change is not None or not self._waiting:
            return
        holder = self._holder
        if holder is not None and (holder.waiting or holder.in_flight or not holder.settled):
            left = self._granted_at + self._length(holder) - time.monotonic()
            if left > 0:
                if self._timer is None:
                    self._timer = asyncio.get_running_loop().call_later(left, self._turn_over)
                return
        if holder is not None:
            self._turns[holder].granted = False
        self._change = asyncio.get_running_loop().create_task(self._hand_over())

    def _turn_over(self) -> None:
        self._timer = None
        self._consider()

    @staticmethod
    def _length(holder: Deployment) -> float:
        loading = max((replica.load_seconds or 0.0 for replica in holder.replicas), default=0.0)
        return max(
            _MIN_TURN_SECONDS, 2 * loading
        )  # counted from the grant: after loading, a turn lasts as long as loading took

    async def _hand_over(self) -> None:
        before = self._holder
        try:
            if before is not None:
                await before.unload()
                if before.waiting and not before.retired and before in self._turns:
                    self._waiting.setdefault(before)  # after those that already wait
        except Exception:  # the others must still get their turn
            log.exception("turn_not_ended_in_order", group=self.name)
        finally:
            self._holder = holder = next(iter(self._waiting), None)
            if holder is not None:
                del self._waiting[holder]
                self._turns[holder].granted = True
            self._granted_at = time.monotonic()
            self._change = None
        if holder is not None:
            log.info("turn_granted", group=self.name, model=holder.model.name)
            holder.pump()
        self._consider()
