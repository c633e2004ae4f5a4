"""The messages of a session to its client."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from penstock.athena.protocol.codes import Outcome
from penstock.athena.protocol.data import DataObject, Scalar, Status
from penstock.athena.protocol.responses import ResponseMessage, encode_response
from penstock.athena.sessions.output import Marks


class Talk:
    """Writes the messages of one session, always in the form of the protocol's document, as both originals do.

    ``cid`` names the session within a multiplexed stream; it is empty for a single one.
    """

    def __init__(self, sid: str, cid: str, header: Mapping[str, Scalar] | None = None) -> None:
        self.sid = sid
        self.cid = cid
        self._header = dict(header or {})  # fields of the client's header that responses repeat

    def accepted(self) -> bytes:
        """Return the message that confirms the first one of a client, before there are results."""
        return encode_response(ResponseMessage(sid=self.sid, cid=self.cid, status=Status.BEGIN, header=self._header))

    def success(self, marks: Marks, results: Sequence[DataObject]) -> bytes:
        """Return a message with results, marked with their statuses and numbers."""
        return encode_response(
            ResponseMessage(
                sid=self.sid,
                cid=self.cid,
                status=marks.status,
                header=self._header,
                payload=marks.applied(results),
            )
        )

    def error(self, outcome: Outcome) -> bytes:
        return encode_response(ResponseMessage(code=outcome.code, message=outcome.message, sid=self.sid, cid=self.cid))
