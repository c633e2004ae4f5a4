"""The limits of sessions over WebSocket, from the settings."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta

from penstock.athena.protocol.requests import DEFAULT, Limits
from penstock.athena.protocol.schemas.document import Document


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamLimits:
    """The original's limits, with its defaults, and the bounds that it lacked."""

    read_timeout: timedelta = timedelta(seconds=15)  # without a message, while the client may send some
    session_timeout: timedelta = timedelta(seconds=180)  # of a session as a whole
    handshake_timeout: timedelta = timedelta(seconds=4)  # from the head of the request to the WebSocket
    close_wait: timedelta = timedelta(seconds=5)  # for the client to confirm a close, or to retry a cut session
    retries: bool = False  # all clients may retry cut sessions, not only those that ask for it
    ignored_codes: frozenset[int] = frozenset({10101})  # of errors that clients are not shown
    message_bytes: int = 16 * 2**20
    sessions_per_connection: int = 100  # in a multiplexed stream
    message: Limits = DEFAULT  # of the content of a message
    backlog_bytes: int = 2**20  # of a session of a multiplexed stream: what its engine has not taken

    def of(self, document: Document) -> StreamLimits:
        """Return the limits of sessions with a service, whose document may state others."""
        return replace(
            self,
            read_timeout=document.read_timeout or self.read_timeout,
            session_timeout=document.session_timeout or self.session_timeout,
        )
