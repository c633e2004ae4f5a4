"""Access tokens of OAuth 2.0 for clients that do not sign their requests."""

from __future__ import annotations

from base64 import b64decode
from binascii import Error as NotBase64
from typing import Any, Final
from urllib.parse import parse_qsl, unquote_plus

import msgspec

from penstock.athena.authentication import Authentication, Refused, query_of
from penstock.athena.credentials.http import TAG
from penstock.athena.tokens import TTL_SECONDS, AccessTokens
from penstock.errors import DatabaseUnavailable, InvalidInput, Overloaded, TooLarge, Unsupported
from penstock.web.request import Request
from penstock.web.response import Response, json_response
from penstock.web.route import Parameter, ResponseSpec, route

_BODY_BYTES: Final = 4096
_GRANT: Final = "client_credentials"
_TOKEN: Final = {"token_type": "bearer", "access_token": "at.eyJr….q0Zk…", "expires_in": TTL_SECONDS}
_FAILED: Final = {"error_description": "Invalid client authentication", "error": "invalid_client"}
_NOT_STORED: Final = [(b"cache-control", b"no-store")]


class OAuthRoutes:
    """Issues access tokens."""

    def __init__(self, authentication: Authentication, tokens: AccessTokens) -> None:
        self._authentication = authentication
        self._tokens = tokens

    @route(
        "POST",
        "/oauth2/token",
        name="issueAthenaToken",
        tag=TAG,
        open=True,
        summary="Issue an access token for an API key and its secret, valid for half an hour",
        description=(
            "OAuth 2.0, client credentials. The parameters may be in the query, in a form, or in JSON; the client may "
            "also authenticate by HTTP Basic. Send the token as `Authorization: Bearer`, or as `access_token`."
        ),
        parameters=(
            Parameter(name="grant_type", type=str, description=_GRANT),
            Parameter(name="client_id", type=str, description="the API key"),
            Parameter(name="client_secret", type=str, description="its secret"),
        ),
        responses={
            200: ResponseSpec(description="The token", type=dict[str, Any], example=_TOKEN),
            400: ResponseSpec(description="Other parameters are needed", type=dict[str, str], example=_FAILED),
            401: ResponseSpec(description="Wrong API key or secret", type=dict[str, str], example=_FAILED),
        },
        errors=(InvalidInput, TooLarge, Unsupported, DatabaseUnavailable, Overloaded),
        max_body_bytes=_BODY_BYTES,
    )
    async def token(self, request: Request) -> Response:
        try:
            stated = query_of(request) | _body(await request.content())
        except Refused as refused:
            return _error(400, "invalid_request", str(refused))
        _basic(request.header(b"authorization"), stated)
        if stated.get("grant_type") != _GRANT:
            return _error(400, "unsupported_grant_type", f"grant_type must be {_GRANT}")
        credential = await self._authentication.credential(stated.get("client_id", ""), stated.get("client_secret", ""))
        if credential is None:
            return _error(401, "invalid_client", "Invalid client authentication")
        token = {
            "token_type": "bearer",
            "access_token": await self._tokens.issue(credential),
            "expires_in": TTL_SECONDS,
        }
        return json_response(token, headers=list(_NOT_STORED))


def _body(content: bytes) -> dict[str, str]:
    """Return the parameters in a body, which may be a form or JSON; none from any other."""
    if content.lstrip().startswith(b"{"):
        try:
            return msgspec.json.decode(content, type=dict[str, str])
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return {}
    try:
        return dict(parse_qsl(content.decode("latin-1"), max_num_fields=20))
    except ValueError:
        return {}


def _basic(header: str | None, stated: dict[str, str]) -> None:
    """Add the client's id and secret of HTTP Basic."""
    scheme, _, text = (header or "").partition(" ")
    if scheme.lower() != "basic":
        return
    try:
        client_id, _, secret = b64decode(text.strip(), validate=True).decode().partition(":")
    except (NotBase64, ValueError):
        return
    stated |= {"client_id": unquote_plus(client_id), "client_secret": unquote_plus(secret)}


def _error(status: int, error: str, description: str) -> Response:
    return json_response({"error": error, "error_description": description}, status, list(_NOT_STORED))
