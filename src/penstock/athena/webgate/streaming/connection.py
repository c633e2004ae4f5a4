"""The sessions of one WebSocket: a single one, or with ``stream_mode=multiplex`` several side by side."""

from __future__ import annotations

from collections import deque
from typing import Final

from penstock.athena.app_ids import WrongAppId
from penstock.athena.protocol import codes
from penstock.athena.protocol.codes import Code, Outcome
from penstock.athena.sessions.forms import WrongMode
from penstock.athena.sessions.input import InputEnded, UnexpectedFrame
from penstock.athena.webgate.streaming import messages
from penstock.athena.webgate.streaming.alarm import Alarm
from penstock.athena.webgate.streaming.messages import ClientMessage, Command
from penstock.athena.webgate.streaming.opening import Opening
from penstock.athena.webgate.streaming.session import TIME_OUT, Link, Session
from penstock.athena.webgate.streaming.sessions import Sessions
from penstock.errors import InvalidInput, Overloaded, PenstockError
from penstock.web.body import Disconnected
from penstock.web.websocket import WebSocket

_REMEMBERED: Final = 256  # ended sessions whose late messages are ignored
_CODES: Final[dict[type[Exception], Code]] = {
    InputEnded: codes.INACTIVE,
    UnexpectedFrame: codes.INVALID_REQUEST,
    WrongAppId: codes.INVALID_APP_ID,
    WrongMode: codes.WRONG_MODE,
}


class Connection(Link):
    """Takes the messages of one client. ``run`` returns when the WebSocket is closed.

    A single session ends its connection. Of several, each ends on its own, and a message that cannot be read ends none.
    """

    def __init__(self, socket: WebSocket, opening: Opening, sessions: Sessions, *, multiplexed: bool) -> None:
        self._socket = socket
        self._opening = opening
        self._all = sessions
        self._limits = opening.limits
        self._multiplexed = multiplexed
        self._sessions: dict[str, Session] = {}  # by cid; a single one has the cid ""
        self._ended: deque[str] = deque(maxlen=_REMEMBERED)  # their cids
        self._idle = Alarm(self._limits.read_timeout, self._expire)  # while there is no session
        socket.close_seconds = self._limits.close_wait.total_seconds()

    async def run(self) -> None:
        """Take messages until either side closes."""
        self._idle.touch()
        self._socket.closed.add(self._leave)
        try:
            while True:
                await self._take(await self._socket.receive())
        except Disconnected:
            pass
        finally:
            self._socket.closed.remove(self._leave)
            self._leave()
            self._idle.stop()

    # Link

    async def send(self, message: bytes) -> None:
        await self._socket.send_text(message)

    def ended(self, session: Session, reason: str) -> None:
        cid = session.talk.cid
        if self._sessions.get(cid) is session:
            del self._sessions[cid]
            self._ended.append(cid)
        if self._socket.closed.is_set():
            return
        if not self._multiplexed:
            self._socket.begin_close(reason=reason)
        elif not self._sessions:
            self._idle.touch()

    # Messages

    async def _take(self, message: bytes | str) -> None:
        try:
            body = message.encode() if isinstance(message, str) else message
            given = messages.read(body)
            if self._multiplexed and not given.cid:
                raise InvalidInput.of("header.cid", "must name the session of this multiplexed stream")
        except PenstockError as error:
            await self._refuse(codes.of_error(error))
            return
        if not self._multiplexed:
            given.cid = ""
        try:
            await self._pass_on(given, size=len(body))
        except PenstockError as error:
            await self._refuse(codes.of_error(error), given.cid)
        except (UnexpectedFrame, WrongAppId, WrongMode) as error:
            code = next(code for kind, code in _CODES.items() if isinstance(error, kind))
            await self._refuse(codes.as_outcome(code, str(error)), given.cid)

    async def _pass_on(self, given: ClientMessage, *, size: int) -> None:
        session = self._sessions.get(given.cid)
        if given.command is Command.CLOSE:
            self._close(session)
        elif given.command is Command.RETRY:
            await self._retry(given)
        elif session is None:
            await self._open(given)
        elif self._multiplexed:
            session.queue(given.content, size=size)
        else:
            await session.take(given.content)

    async def _open(self, given: ClientMessage) -> None:
        if given.cid in self._ended and messages.continues(given.content):
            raise InputEnded("this session has ended")
        if len(self._sessions) >= self._limits.sessions_per_connection:
            limit = self._limits.sessions_per_connection
            raise Overloaded(f"a connection may have {limit} sessions at the same time")
        self._idle.rest()
        try:
            session = await self._opening.open(given.content, self, cid=given.cid)
        except BaseException:
            if not self._sessions:
                self._idle.touch()
            raise
        if session.silent:  # it ended while its first data were passed on
            return
        self._sessions[given.cid] = session
        if self._socket.closed.is_set():  # while it was opened
            self._leave()

    async def _retry(self, given: ClientMessage) -> None:
        session = self._all.find(given.sid, self._opening.caller.principal)
        if session is None or given.cid in self._sessions:
            reason = "this session cannot be continued: it has ended, is not known, or does not allow it"
            await self._refuse(codes.as_outcome(codes.INVALID_SESSION_HANDLE, reason), given.cid)
            return
        session.attach(self)  # before it is renamed: its last connection, perhaps this one, knows it by its old cid
        session.talk.cid = given.cid
        self._sessions[given.cid] = session
        self._idle.rest()

    def _close(self, session: Session | None) -> None:
        """End a session at its client's request. A request after its end is not a mistake."""
        if session is not None:
            session.abandon()
            self.ended(session, "")

    async def _refuse(self, outcome: Outcome, cid: str = "") -> None:
        """Report that a message cannot be used, and end its session or, where it has none, a single connection."""
        if outcome.code in self._limits.ignored_codes:
            return
        session = self._sessions.get(cid)
        if session is not None:
            session.fail(outcome)
            return
        await self.send(self._opening.refusal(outcome, cid))
        if not self._multiplexed:
            self._socket.begin_close(reason=outcome.message)

    # The end

    def _leave(self) -> None:
        """End all sessions, because the WebSocket is closed. Where it was cut, those that may be retried continue."""
        cut = self._socket.was_cut
        sessions, self._sessions = self._sessions, {}
        for session in sessions.values():
            if cut and session.retries:
                session.detach()
            else:
                session.abandon()

    def _expire(self) -> None:
        self._socket.begin_close(reason=TIME_OUT)
