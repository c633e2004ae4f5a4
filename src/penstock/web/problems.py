"""Errors as RFC 9457 problem details: one table from error class to status."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import msgspec

from penstock import errors
from penstock.web.response import Response

PROBLEM_JSON = b"application/problem+json"

STATUSES: dict[type[errors.PenstockError], tuple[int, str]] = {
    errors.MalformedBody: (400, "The body cannot be read"),
    errors.Unauthorized: (401, "Not authenticated"),
    errors.Forbidden: (403, "Not allowed from there"),
    errors.ScopeMissing: (403, "Not allowed with this key"),
    errors.NotFound: (404, "Not found"),
    errors.MethodNotAllowed: (405, "Method not allowed"),
    errors.StaleEpoch: (409, "The lease is no longer held"),
    errors.WrongState: (409, "The job's state does not allow this"),
    errors.TooLarge: (413, "Too large"),
    errors.Unsupported: (415, "Not supported"),
    errors.InvalidInput: (422, "A field breaks a rule"),
    errors.IdempotencyConflict: (422, "The idempotency key was used for another request"),
    errors.AlreadyExists: (409, "Already registered"),
    errors.PriceMissing: (403, "No price is known"),
    errors.QuotaExceeded: (429, "Quota exceeded"),
    errors.PoisonInput: (422, "This input brings the model down"),
    errors.ModelFailed: (500, "The model failed"),
    errors.ModelCrashed: (502, "The model crashed"),
    errors.ProviderFailed: (502, "The server behind the model failed"),
    errors.ModelTimeout: (504, "The model took too long"),
    errors.ModelUnavailable: (503, "The model is not available"),
    errors.ModelBroken: (503, "The model's manifest is wrong"),
    errors.AppUnavailable: (503, "The app is not available"),
    errors.SchemaMismatch: (503, "The database schema does not fit"),
    errors.DatabaseUnavailable: (503, "The database is not available"),
    errors.BlobStoreUnavailable: (503, "The store of files is not available"),
    errors.Overloaded: (503, "Overloaded"),
}
_OURS = (500, "Internal error")
_REFUSALS: Final = {  # status → code and title, for requests that never reach a route
    400: ("malformed_request", "Not a valid request"),
    408: ("request_timeout", "The request came too slowly"),
    414: ("target_too_long", "Path and query are too long"),
    426: ("upgrade_required", "This path is a WebSocket"),
    431: ("head_too_large", "The headers are too large"),
    501: ("unsupported_encoding", "Transfer encoding not supported"),
    505: ("unsupported_version", "HTTP version not supported"),
}
_QUOTA_EXCEEDED: Final = "https://iana.org/assignments/http-problem-types#quota-exceeded"
_SOON = timedelta(seconds=1)


_EXAMPLE_TIME: Final = datetime(2026, 11, 29, 12, 1, tzinfo=UTC)


class Problem(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """RFC 9457 problem details. ``code`` is stable; the texts are for people."""

    type: str
    title: str
    status: int
    code: str
    detail: str
    errors: list[dict[str, str]] = []  # field and detail of each mistake
    engine_code: int | None = None  # the number by which the engine of a model names its failure
    quota: str | None = None  # the quota that refused the request, with its limit, its use, and the time of its reset
    limit: int | None = None
    used: int | None = None
    resets_at: datetime | None = None
    violated_policies: list[str] | None = msgspec.field(
        default=None, name="violated-policies"
    )  # as in RateLimit-Policy


class Refused(Exception):
    """A request that is not valid HTTP or exceeds a limit of the server. The response closes its connection."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail


def status_of(error: type[errors.PenstockError]) -> tuple[int, str]:
    """Return the status and title of an error class, or of its nearest ancestor in the table."""
    for ancestor in error.__mro__:
        if ancestor in STATUSES:
            return STATUSES[ancestor]
    return _OURS


def describe(error: errors.PenstockError) -> Problem:
    """Return the problem details of an error; those of an internal error reveal only its class."""
    status, title = status_of(type(error))
    mistakes = error.problems if isinstance(error, errors.InvalidInput | errors.ModelBroken) else ()
    exceeded = error.exceeded if isinstance(error, errors.QuotaExceeded) else None
    return Problem(
        type=f"urn:penstock:problem:{error.code}" if not isinstance(error, errors.QuotaExceeded) else _QUOTA_EXCEEDED,
        title=title,
        status=status,
        code=error.code,
        detail=error.message if (status, title) != _OURS else "The service failed to process this request.",
        errors=[{"field": mistake.field, "detail": mistake.detail} for mistake in mistakes],
        engine_code=error.engine_code,
        quota=exceeded.quota if exceeded else None,
        limit=exceeded.limit if exceeded else None,
        used=exceeded.used if exceeded else None,
        resets_at=exceeded.resets_at if exceeded else None,
        violated_policies=[exceeded.quota] if exceeded else None,
    )


def response(error: errors.PenstockError, *, allow: str | None = None) -> Response:
    """Return the response to a request that ended in ``error``."""
    problem = describe(error)
    headers: list[tuple[bytes, bytes]] = []
    if problem.status == 401:
        headers.append((b"www-authenticate", b'Bearer realm="penstock"'))
    if problem.status == 503:
        wait = (error.retry_after if isinstance(error, errors.Overloaded) else None) or _SOON
        headers.append(_retry_after(wait))
    if isinstance(error, errors.QuotaExceeded):
        headers += _of_quota(error)
    if allow is not None:
        headers.append((b"allow", allow.encode()))
    return Response(
        status=problem.status, body=msgspec.json.encode(problem), content_type=PROBLEM_JSON, headers=headers
    )


def _of_quota(error: errors.QuotaExceeded) -> list[tuple[bytes, bytes]]:
    """Return the headers of a refusal: when to try again, and the state of the quota."""
    headers = [] if error.retry_after is None else [_retry_after(error.retry_after)]
    if error.exceeded is not None:
        name, left = error.exceeded.quota.encode(), max(0, error.exceeded.limit - error.exceeded.used)
        reset = b"" if error.retry_after is None else b";t=%d" % math.ceil(error.retry_after.total_seconds())
        headers.append((b"ratelimit-policy", b'"%b";q=%d' % (name, error.exceeded.limit)))
        headers.append((b"ratelimit", b'"%b";r=%d%b' % (name, left, reset)))
    return headers


def _retry_after(wait: timedelta) -> tuple[bytes, bytes]:
    return (b"retry-after", str(math.ceil(wait.total_seconds())).encode())


def refusal(refused: Refused) -> Response:
    """Return the response to a request that was refused before any route saw it."""
    code, title = _REFUSALS[refused.status]
    problem = Problem(
        type=f"urn:penstock:problem:{code}", title=title, status=refused.status, code=code, detail=refused.detail
    )
    return Response(status=refused.status, body=msgspec.json.encode(problem), content_type=PROBLEM_JSON)


def upgrade_required() -> Response:
    """Return the response to a plain request for a path that is served as a WebSocket."""
    response = refusal(Refused(426, "open a WebSocket here: send Connection: Upgrade and Upgrade: websocket"))
    response.headers.append((b"upgrade", b"websocket"))
    return response


def unexpected() -> Response:
    """Return the response to a request that failed unexpectedly; the log has the details."""
    return response(errors.ServiceError())


def schema_example(error: type[errors.PenstockError]) -> dict[str, Any]:
    """Return an example of an error for the description of the API."""
    sample: errors.PenstockError
    if issubclass(error, errors.InvalidInput):
        sample = error([errors.FieldProblem(field="priority", detail="expected `int` <= 100")])
    elif issubclass(error, errors.QuotaExceeded):
        sample = error(exceeded=errors.Exceeded(quota="calls-per-minute", limit=600, used=600, resets_at=_EXAMPLE_TIME))
    else:
        sample = error()
    example: dict[str, Any] = msgspec.to_builtins(describe(sample))
    return example
