"""Models of one group are never loaded together: one GPU, several big models. Queued work decides whose turn it is.

A turn lasts at least as long as loading took, so that loading never costs more than half of the time. Then, or as soon
as its holder has nothing to do, the model that has waited longest comes next. Running calls are never cut short.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final

from penstock.telemetry import logs

if TYPE_CHECKING:
    from penstock.models.host.deployment import Deployment

log = logs.get(__name__)

_SHORTEST_TURN: Final = 1.0  # seconds


class Group:
    """The models of one group, and which of them may be loaded."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.holder: Deployment | None = None
        self._granted_at = 0.0
        self._waiting: dict[Deployment, None] = {}  # in the order of asking
        self._change: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    def turn_of(self, deployment: Deployment) -> GroupTurn:
        """A deployment's membership."""
        return GroupTurn(self, deployment)

    def granted(self, deployment: Deployment) -> bool:
        return self.holder is deployment and self._change is None

    def ask(self, deployment: Deployment) -> None:
        if not self.granted(deployment):
            self._waiting.setdefault(deployment)
            self._consider()

    def leave(self, deployment: Deployment) -> None:
        """It is no member any more, and not loaded."""
        self._waiting.pop(deployment, None)
        if self.holder is deployment:
            self.holder = None
        self._consider()

    def idle(self, deployment: Deployment) -> None:
        if self._waiting and self.holder is deployment:
            self._consider()

    def _consider(self) -> None:
        if self._change is not None or not self._waiting:
            return
        holder = self.holder
        if holder is not None and (holder.waiting or holder.in_flight or not holder.settled):
            left = self._granted_at + self._length(holder) - time.monotonic()
            if left > 0:
                if self._timer is None:
                    self._timer = asyncio.get_running_loop().call_later(left, self._turn_over)
                return
        self._change = asyncio.get_running_loop().create_task(self._hand_over())

    def _turn_over(self) -> None:
        self._timer = None
        self._consider()

    @staticmethod
    def _length(holder: Deployment) -> float:
        loading = max((replica.load_seconds or 0.0 for replica in holder.replicas), default=0.0)
        return max(_SHORTEST_TURN, 2 * loading)  # counted from the grant: as long again as loading took

    async def _hand_over(self) -> None:
        before = self.holder
        try:
            if before is not None:
                await before.unload()
                if before.waiting and not before.retired:
                    self._waiting.setdefault(before)  # behind those that wait already
        except Exception:  # the others' turn must come all the same
            log.exception("turn_not_ended_in_order", group=self.name)
        finally:
            self.holder = next(iter(self._waiting), None)
            if self.holder is not None:
                del self._waiting[self.holder]
            self._granted_at = time.monotonic()
            self._change = None
        if self.holder is not None:
            log.info("turn_granted", group=self.name, model=self.holder.model.name)
            self.holder.pump()
        self._consider()


class GroupTurn:
    """One deployment's view of its group."""

    def __init__(self, group: Group, deployment: Deployment) -> None:
        self.group = group
        self._deployment = deployment

    @property
    def granted(self) -> bool:
        return self.group.granted(self._deployment)

    def ask(self) -> None:
        self.group.ask(self._deployment)

    def idle(self) -> None:
        self.group.idle(self._deployment)
