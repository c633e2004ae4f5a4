"""Responses of WebGate over HTTP: results, failures in both forms, and what is refused before a service is called."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from penstock.athena.authentication import Refused
from penstock.athena.protocol import codes
from penstock.athena.protocol.codes import Outcome
from penstock.athena.protocol.data import DataObject, Scalar, Status
from penstock.athena.protocol.engine_calls import last_status
from penstock.athena.protocol.responses import Bodies, ResponseMessage, encode_response
from penstock.errors import PenstockError
from penstock.web import problems
from penstock.web.response import Headers, Response, json_response

NOT_FOUND = {"message": "not found"}


class Replies:
    """Makes responses with bodies of one form."""

    def __init__(self, bodies: Bodies) -> None:
        self._bodies = bodies

    def results(
        self,
        results: Sequence[DataObject],
        *,
        sid: str,
        headers: Headers,
        header: Mapping[str, Scalar] | None = None,
    ) -> Response:
        """Return the response to a call that succeeded."""
        message = ResponseMessage(
            sid=sid,
            status=last_status(results) if results else Status.ONCE,
            payload=results,
            header=dict(header or {}),
        )
        return Response(body=encode_response(message, self._bodies), headers=headers)

    def failure(
        self,
        error: PenstockError,
        *,
        sid: str,
        code_map: Mapping[str, Any] | None = None,
        header: Mapping[str, Scalar] | None = None,
    ) -> Response:
        """Return the response to a request that ended in an error; ``header`` has more fields for its header."""
        outcome = codes.of_error(error)
        if self._bodies is Bodies.LOADER:
            outcome = codes.as_loader(outcome, error)
        outcome = codes.mapped(outcome, code_map or {})
        headers = [one for one in problems.response(error).headers if one[0] != b"www-authenticate"]
        return self.outcome(outcome, sid=sid, headers=headers, header=header)

    def outcome(
        self, outcome: Outcome, *, sid: str, headers: Headers | None = None, header: Mapping[str, Scalar] | None = None
    ) -> Response:
        """Return the response to a request that failed with this outcome."""
        message = ResponseMessage(code=outcome.code, message=outcome.message, sid=sid, header=dict(header or {}))
        return Response(status=outcome.status, body=encode_response(message, self._bodies), headers=headers or [])


def refusal(refused: Refused) -> Response:
    """Return the response to a request whose sender is not identified, or not allowed."""
    headers = [(b"www-authenticate", b'hmac realm="penstock"')] if refused.status == 401 else []
    return json_response(refused.body, refused.status, headers)


def not_found() -> Response:
    """Return the response to a request for a service that the sender does not see."""
    return json_response(NOT_FOUND, 404)
