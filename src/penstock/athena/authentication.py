"""Identify the sender of a request of Athena's protocol: by a signature, an access token, or as other routes do.

All faces of the protocol use ``Authentication``. A request that is not HTTP is presented as one: as a ``Request`` with
the method and path of its protocol, and with its metadata as headers.
"""

from __future__ import annotations

import hmac
import time
from dataclasses import dataclass, field
from secrets import token_bytes
from typing import Final
from urllib.parse import parse_qsl

from penstock.access.check import Access
from penstock.access.key_cache import KeyCache
from penstock.athena.credentials.cache import CredentialCache
from penstock.athena.credentials.credential import Credential
from penstock.athena.protocol import signing
from penstock.athena.protocol.signing import BadSignature, SignedRequest
from penstock.athena.tokens import PREFIX, AccessTokens
from penstock.errors import Forbidden, ScopeMissing, Unauthorized
from penstock.models.http.parameters import reader_of
from penstock.models.reader import Reader
from penstock.tenants import scopes
from penstock.tenants.principal import Principal
from penstock.web.request import Request

_MAX_FIELDS: Final = 100  # of a query
_UNKNOWN_SECRET: Final = token_bytes(32)  # of API keys that do not exist, so that their check takes as long
_STATED: tuple[str, ...] = ("host", "date", "x-date", "digest")  # the lines that clients state
_NOT_ALLOWED: Final = "you are not allowed to access this service"


class Refused(Exception):
    """A request is not allowed. ``status`` and ``body`` are those of the response."""

    def __init__(self, status: int, body: dict[str, str]) -> None:
        super().__init__(body.get("message") or body.get("error_description") or "")
        self.status = status
        self.body = body

    @classmethod
    def of(cls, status: int, message: str) -> Refused:
        return cls(status, {"message": message})


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """The sender of a request. ``reader`` sees the services that it may call."""

    principal: Principal
    reader: Reader
    app_id: str | None = None  # None: its key has none, so that any may be stated
    body_digest: str | None = field(default=None, repr=False)  # the line ``digest``, if the client has signed it

    def check_body(self, body: bytes) -> None:
        """Raise Refused if the client has signed another body."""
        if self.body_digest is None:
            return
        if not hmac.compare_digest(self.body_digest.encode(), signing.digest_of(body).encode()):
            raise Refused.of(401, "HMAC signature does not match: the digest is of another body")


class Authentication:
    """Identifies the senders of requests."""

    def __init__(self, access: Access, keys: KeyCache, credentials: CredentialCache, tokens: AccessTokens) -> None:
        self._access = access
        self._keys = keys
        self._credentials = credentials
        self._tokens = tokens

    async def identify(self, request: Request) -> Caller:
        """Return the sender of a request, and note it in the request, so that its revocation ends what it watches.

        Raises Refused, and the ServiceErrors of the access check.
        """
        query = query_of(request)
        try:
            principal, app_id, digest = await self._sender(request, query)
            principal.require(scopes.MODELS_CALL)
        except BadSignature as error:
            raise Refused.of(error.status, str(error)) from None
        except Unauthorized as error:
            raise Refused.of(401, error.message) from None
        except ScopeMissing as error:
            raise Refused.of(403, f"{_NOT_ALLOWED}: {error.message}") from None
        except Forbidden as error:
            raise Refused.of(403, error.message) from None
        request.principal = principal
        request.scope = scopes.MODELS_CALL
        return Caller(principal=principal, reader=reader_of(request), app_id=app_id, body_digest=digest)

    async def credential(self, api_key: str, api_secret: str) -> Credential | None:
        """Return the credential of an API key whose secret and key are valid; None if they are not."""
        found = await self._credentials.find(api_key)
        secret = _UNKNOWN_SECRET if found is None else found.api_secret
        if not hmac.compare_digest(secret, api_secret.encode()) or found is None:
            return None
        try:
            await self._keys.by_id(found.key_id)
        except Unauthorized:
            return None
        return found

    async def _sender(self, request: Request, query: dict[str, str]) -> tuple[Principal, str | None, str | None]:
        """Return the sender, its app id if its key has one, and the digest of the body that it has signed."""
        header = request.header(b"authorization") or ""
        scheme, _, text = header.partition(" ")
        bearer = text.strip() if scheme.lower() == "bearer" else ""
        token = bearer if bearer.startswith(PREFIX) else query.get("access_token", "")
        if token:
            return *await self._by_token(token), None
        signed = query.get("authorization") or ("" if bearer or scheme.lower() == "bearer" else header)
        if signed:
            return await self._by_signature(request, query, signed)
        return await self._otherwise(request), None, None

    async def _by_token(self, text: str) -> tuple[Principal, str]:
        claims = self._tokens.verified(text)
        if claims is not None:
            try:
                return await self._of_key(claims.key_id), claims.app_id
            except Unauthorized:
                pass
        description = "The access token is invalid or has expired"
        raise Refused(401, {"error_description": description, "error": "invalid_token"})

    async def _by_signature(
        self, request: Request, query: dict[str, str], text: str
    ) -> tuple[Principal, str | None, str | None]:
        authorization = signing.parse(text)
        credential = await self._credentials.find(authorization.api_key)
        signed = _signed(request, query)
        if credential is None:
            signing.matches(signed, authorization, _UNKNOWN_SECRET)  # so that the time does not show what exists
            try:
                return await self._otherwise(request), None, None  # a gateway that needs no key reads none
            except Unauthorized:
                raise BadSignature("HMAC signature cannot be verified") from None
        signing.check_date(signed, authorization, now=time.time())
        if not signing.matches(signed, authorization, credential.api_secret):
            raise BadSignature("HMAC signature does not match")
        digest = signed.stated.get("digest", "") if "digest" in authorization.lines else None
        return await self._of_key(credential.key_id), credential.app_id, digest

    async def _of_key(self, key_id: str) -> Principal:
        """Return what a key allows now. Raises Unauthorized, DatabaseUnavailable."""
        entry = await self._keys.by_id(key_id)
        entry.used = True
        principal = entry.grant.principal
        if principal is None:
            raise Unauthorized(entry.grant.refusal)
        return principal

    async def _otherwise(self, request: Request) -> Principal:
        found = self._access.check(request)
        return found if isinstance(found, Principal) else await found


def query_of(request: Request) -> dict[str, str]:
    """Return the parameters of a query, the first of each name. Raises Refused if it cannot be read."""
    if not request.query_string:
        return {}
    found: dict[str, str] = {}
    try:
        pairs = parse_qsl(request.query_string.decode("latin-1"), keep_blank_values=True, max_num_fields=_MAX_FIELDS)
    except ValueError:
        raise Refused.of(400, f"the query must have at most {_MAX_FIELDS} parameters") from None
    for name, value in pairs:
        found.setdefault(name, value)
    return found


def hosts_of(request: Request) -> list[str]:
    """Return the names by which the client may have addressed this server: its own, and that of a proxy before it."""
    stated = (request.header(b"x-forwarded-host"), request.header(b"host"))
    return [host.strip() for one in stated if one for host in one.split(",")][:10]


def _signed(request: Request, query: dict[str, str]) -> SignedRequest:
    stated = {name: query[name] for name in _STATED if name in query}
    for name in _STATED[1:]:
        value = request.header(name.encode())
        if value is not None:
            stated.setdefault(name, value)
    return SignedRequest(
        method="GET" if request.method == "HEAD" else request.method,
        path=request.url_path,
        query=request.query_string.decode("latin-1"),
        hosts=hosts_of(request),
        stated=stated,
    )
