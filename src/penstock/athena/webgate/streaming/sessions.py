"""The sessions of this process, also those whose connection was cut."""

from __future__ import annotations

import asyncio

from penstock.athena.webgate.streaming.session import Session
from penstock.telemetry import metrics
from penstock.tenants.principal import Principal

_OPEN = metrics.gauge("penstock_athena_sessions", "Open sessions of Athena's protocol over WebSocket.")


class Sessions:
    """Runs sessions, and finds those that clients may retry. ``stop`` ends all."""

    def __init__(self) -> None:
        self._running: dict[str, tuple[Session, Principal]] = {}  # by session id
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def count(self) -> int:
        """The number of open sessions."""
        return len(self._running)

    def start(self, session: Session, principal: Principal) -> None:
        """Run a session, which has begun, as a task of its own: it may outlive its connection."""
        self._running[session.talk.sid] = (session, principal)
        task = asyncio.get_running_loop().create_task(session.run())
        self._tasks.add(task)
        _OPEN.inc()

        def ended(task: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            del self._running[session.talk.sid]
            _OPEN.dec()

        task.add_done_callback(ended)

    def find(self, sid: str, principal: Principal) -> Session | None:
        """Return a session that the same key may retry; None if there is none, or it has ended."""
        session, owner = self._running.get(sid, (None, None))
        if session is None or owner is None or session.over or session.silent or not session.retries:
            return None
        same = (owner.tenant, owner.key, owner.user) == (principal.tenant, principal.key, principal.user)
        return session if same else None

    async def stop(self) -> None:
        """End all sessions and wait for it."""
        for session, _ in list(self._running.values()):
            session.abandon()
        await asyncio.gather(*self._tasks, return_exceptions=True)
