"""Every error Penstock raises on purpose.

::

    PenstockError
    ├── CallerError                 the request cannot be served as it stands
    │   ├── MalformedBody           the body is not what its content type says
    │   ├── InvalidInput            well-formed, but a field breaks a rule
    │   ├── TooLarge                a body, field or list exceeds its configured size
    │   ├── Unsupported             a media type or encoding that is not served
    │   ├── Forbidden               the request is not allowed from its origin
    │   ├── ScopeMissing            the key does not allow this
    │   ├── Unauthorized            no key, or one that is not valid
    │   ├── NotFound                nothing has that id or path
    │   ├── MethodNotAllowed        the path exists, the method does not
    │   ├── StaleEpoch              the caller no longer holds the lease that it names
    │   ├── WrongState              the job's state does not allow the operation
    │   ├── IdempotencyConflict     the key was used before for another request
    │   ├── AlreadyExists           a model of that name and version is registered already
    │   ├── QuotaExceeded           a quota has too little left
    │   ├── PriceMissing            a quota of cost applies, and there is no price for the request
    │   └── PoisonInput             this input has brought down replicas repeatedly
    ├── ServiceError                the service could not serve a valid request
    │   ├── DatabaseUnavailable     PostgreSQL cannot be reached; try again
    │   │   └── SchemaMismatch      its schema is missing or of another version
    │   ├── BlobStoreUnavailable    the store of files cannot be reached or used; try again
    │   ├── Overloaded              a bounded queue is full; try again later
    │   ├── ModelFailed             the model raised an exception
    │   ├── ModelCrashed            the replica died under the call
    │   ├── ModelTimeout            the model took longer than its limit
    │   ├── ModelUnavailable        the model cannot be loaded, perhaps only for a while
    │   │   └── ModelBroken         its manifest is wrong
    │   ├── AppUnavailable          no worker can run requests of the app at present; try again
    │   └── ProviderFailed          a server behind the model failed
    ├── CannotStart                 a process cannot start here; the message names the remedy
    └── SettingsError               the environment is wrong; lists every mistake

The domain knows no HTTP: ``web.problems`` maps these classes to statuses. ``code`` is stable and
part of the public contract; the message is for people.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import ClassVar


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldProblem:
    """One mistake in one field."""

    field: str  # the dotted path in the caller's input: "jobs[3].priority"
    detail: str  # what is wrong and what is allowed


def dotted(path: Sequence[str | int]) -> str:
    """Return a path as errors show it: ``items[2].text``."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).lstrip(".")


class PenstockError(Exception):
    """Base of all errors that Penstock raises on purpose."""

    code: ClassVar[str] = "error"
    engine_code: int | None = None  # the number by which the engine of a model names its failure

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or type(self).__doc__ or type(self).__name__)

    @property
    def message(self) -> str:
        return str(self.args[0])


class CallerError(PenstockError):
    """The request cannot be served as it stands."""

    code = "bad_request"


class MalformedBody(CallerError):
    """The body is not valid JSON."""

    code = "malformed_body"


class InvalidInput(CallerError):
    """One or more fields break a rule."""

    code = "invalid_input"

    def __init__(self, problems: Sequence[FieldProblem]) -> None:
        self.problems: tuple[FieldProblem, ...] = tuple(problems)
        super().__init__("; ".join(f"{p.field}: {p.detail}" for p in self.problems))

    @classmethod
    def of(cls, field: str, detail: str) -> InvalidInput:
        return cls([FieldProblem(field=field, detail=detail)])


class TooLarge(CallerError):
    """The request exceeds a configured size."""

    code = "too_large"


class Unsupported(CallerError):
    """This media type or encoding is not accepted."""

    code = "unsupported"


class Forbidden(CallerError):
    """This request may not be made from there."""

    code = "forbidden"


class ScopeMissing(CallerError):
    """The key does not allow this; the detail names the scope that is missing."""

    code = "scope_missing"


class Unauthorized(CallerError):
    """A valid key is required."""

    code = "unauthorized"


class NotFound(CallerError):
    """There is no such thing here."""

    code = "not_found"


class MethodNotAllowed(CallerError):
    """This path does not have that method."""

    code = "method_not_allowed"


class StaleEpoch(CallerError):
    """The lease with this epoch is no longer held; the job may be running elsewhere or have ended."""

    code = "stale_epoch"


class WrongState(CallerError):
    """The job's state does not allow this operation."""

    code = "wrong_state"


class IdempotencyConflict(CallerError):
    """This idempotency key was already used for another request."""

    code = "idempotency_conflict"


class AlreadyExists(CallerError):
    """A model of this name and version is registered already."""

    code = "already_exists"


@dataclass(frozen=True, slots=True, kw_only=True)
class Exceeded:
    """The state of the quota that refused a request."""

    quota: str  # "calls-per-minute"
    limit: int
    used: int  # including what is reserved for requests in progress
    resets_at: datetime | None = None  # None: when requests in progress have ended


class QuotaExceeded(CallerError):
    """A quota has too little left for this request. Nothing was counted, of any quota."""

    code = "quota_exceeded"

    def __init__(
        self, message: str | None = None, *, exceeded: Exceeded | None = None, retry_after: timedelta | None = None
    ) -> None:
        super().__init__(message)
        self.exceeded = exceeded
        self.retry_after = retry_after  # None: waiting does not help


class PriceMissing(CallerError):
    """A quota of cost limits this request, but there is no price for what it calls."""

    code = "price_missing"


class PoisonInput(CallerError):
    """This input has brought replicas of the model down repeatedly; it is refused for a while."""

    code = "poison_input"


class ServiceError(PenstockError):
    """The service failed; the request may be repeated."""

    code = "internal"


class DatabaseUnavailable(ServiceError):
    """The database cannot be reached at the moment; try again."""

    code = "database_unavailable"


class SchemaMismatch(DatabaseUnavailable):
    """The database schema is not the one that this Penstock needs. Run `penstock db migrate`."""

    code = "schema_mismatch"


class BlobStoreUnavailable(ServiceError):
    """The store of files cannot be used at the moment; try again."""

    code = "blob_store_unavailable"


class Overloaded(ServiceError):
    """The service is at its limit; try again later."""

    code = "overloaded"

    def __init__(self, message: str | None = None, *, retry_after: timedelta | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after  # None: soon


class ModelFailed(ServiceError):
    """The model raised an exception."""

    code = "model_failed"


class ModelCrashed(ServiceError):
    """The replica that ran this call died."""

    code = "model_crashed"


class ModelTimeout(ServiceError):
    """The model took longer than its limit."""

    code = "model_timeout"


class ModelUnavailable(ServiceError):
    """The model is not loaded and cannot be at present."""

    code = "model_unavailable"


class AppUnavailable(ServiceError):
    """No worker can run requests of the app at present; try again."""

    code = "app_unavailable"


class ModelBroken(ModelUnavailable):
    """The model's manifest is wrong."""

    code = "model_broken"

    def __init__(self, message: str | None = None, problems: Sequence[FieldProblem] = ()) -> None:
        super().__init__(message)
        self.problems: tuple[FieldProblem, ...] = tuple(problems)


class ProviderFailed(ServiceError):
    """A server behind the model failed."""

    code = "provider_failed"


class CannotStart(PenstockError):
    """The process cannot start here."""

    code = "cannot_start"


class SettingsError(PenstockError):
    """The settings are wrong."""

    code = "settings"

    def __init__(self, problems: Sequence[FieldProblem]) -> None:
        self.problems: tuple[FieldProblem, ...] = tuple(problems)
        lines = "\n".join(f"  {p.field}: {p.detail}" for p in self.problems)
        super().__init__(f"The settings are wrong:\n{lines}")
