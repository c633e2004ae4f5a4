"""The codes of responses: what each means, its HTTP status, and the code of every error of Penstock.

Engines name their failures by codes of their own, which are passed on. The table lists the codes that the original's
gateway and loader use; a number with two meanings has two rows, because the two parts number on their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from penstock import errors
from penstock.athena.protocol.mistakes import DataUndecodable

_UNEXPLAINED: Final = "the service failed to process this request"
_FAILED: Final = 502  # the status of what an engine reports


@dataclass(frozen=True, slots=True, kw_only=True)
class Code:
    """One row of the table."""

    number: int
    meaning: str
    status: int = _FAILED  # of an HTTP response


def _code(number: int, meaning: str, status: int = _FAILED) -> Code:
    return Code(number=number, meaning=meaning, status=status)


_ROWS: Final[list[Code]] = []


def _row(number: int, meaning: str, status: int = _FAILED) -> Code:
    """Return a code that is listed in the table."""
    _ROWS.append(_code(number, meaning, status))
    return _ROWS[-1]


# Of the gateway
_row(10031, "the connection could not become a WebSocket", 400)
_row(10106, "a parameter is missing", 400)
_row(10107, "a parameter is not allowed by the schema", 400)
_row(10109, "the request holds no data", 400)
SESSION_TIMEOUT: Final = _row(10114, "the session took too long, or nothing was sent for too long", 504)
_row(10118, "the data of a response cannot be read", 502)
NOT_JSON: Final = _row(10160, "the request is not JSON", 400)
NOT_DECODABLE: Final = _row(10161, "data is not valid base64, gzip, or text of the stated encoding", 400)
INVALID_REQUEST: Final = _row(10163, "the request breaks a rule; the message names the field", 400)
_row(10164, "the result does not fit the schema", 502)
INVALID_SESSION_HANDLE: Final = _row(10165, "the session has ended, or is not known", 409)
_row(10200, "the connection failed while it was read", 400)
SESSION_ENDED: Final = _row(10202, "a message came after the session's last one", 409)
_row(10225, "the service is not known", 404)
_row(10240, "the request to the engine could not be made", 502)
CALL_FAILED: Final = _row(10250, "the server behind the engine failed", 502)
INVALID_APP_ID: Final = _row(10313, "the app id is missing, or does not belong to the key", 400)
_row(10324, "no session id could be made", 500)
NOT_FOUND: Final = _row(10404, "the address or the service behind it is not known", 404)
_row(11345, "the state of the session that the client sent is not valid", 400)
SERVER_ERROR: Final = _row(11502, "the service failed", 500)
_row(11503, "the engine's message is empty", 502)
_row(12000, "the client has sent everything, but the last result did not come", 504)
# Of the loader
INVALID_OPERATION: Final = _row(10003, "the operation is not known")
WRONG_MODE: Final = _row(10004, "the engine does not work in this mode")
INVALID_HANDLE: Final = _row(10008, "the handle of the session is not valid")
INVALID_DATA: Final = _row(10009, "the input is not valid")
SESSION_IDLE: Final = _row(10019, "the session was idle for too long", 504)
INACTIVE: Final = _row(10101, "the engine is not ready, or the session was released", 503)
TIMEOUT: Final = _row(10102, "the engine took too long", 504)
SESSION_REPEATED: Final = _row(10105, "a session of this id exists already", 409)
_row(10106, "a parameter or a result of the engine is not valid")
_row(10107, "the value of a parameter is not valid")
CRASHED: Final = _row(10109, "the engine crashed")
FULL: Final = _row(10110, "every place is taken, and the queue is full", 503)
EXEC_FAILED: Final = _row(10909, "wrapperOnceExec failed")
INIT_FAILED: Final = _row(10901, "wrapperInit failed", 503)
_row(10010, "a request for data by HTTP could not be made")
_row(10011, "a request for data by HTTP failed, or processing of data could not start")
_row(10012, "data fetched by HTTP is not valid")
_row(10013, "a request for data by HTTP took too long", 504)
_row(10041, "the codec could not start")
_row(10042, "data could not be encoded")
_row(10043, "data could not be decoded")
_row(10044, "the codec could not stop")
_row(10103, "the state of a non-real-time task could not be stored")
_row(10104, "the number of places could not be changed")
_row(10300, "the buffer is empty")
_row(10301, "the buffer was closed")
_row(10400, "a message could not be encoded")
UNREADABLE: Final = _row(10401, "a message could not be decoded")
_row(10402, "the version of a message is not known")
_row(10403, "JSON could not be written")
_row(10404, "JSON could not be read")
_row(10405, "a message could not be converted")
_row(10406, "a parameter of a message is not valid")
_row(10600, "the event is not known")
_row(10902, "wrapperFini failed")
_row(10903, "wrapperLoadRes failed")
_row(10904, "wrapperUnloadRes failed")
_row(10905, "wrapperCreate failed")
_row(10906, "wrapperDestroy failed")
_row(10907, "wrapperWrite failed")
_row(10908, "wrapperRead failed")
_row(10910, "wrapperOnceExecAsync failed")
_row(20001, "a callback of the engine named an unknown function")
_row(20002, "a callback of the engine named an unknown handle")
_row(30001, "the wrapper could not be loaded", 503)
_row(30002, "the wrapper's wrapperInit raised an exception", 503)
_row(30003, "the wrapper raised an exception")

TABLE: Final = tuple(sorted(_ROWS, key=lambda one: (one.number, one.meaning)))

_OF_ERRORS: Final[Mapping[type[errors.PenstockError], Code]] = {
    errors.CallerError: INVALID_REQUEST,
    errors.MalformedBody: NOT_JSON,
    DataUndecodable: NOT_DECODABLE,
    errors.TooLarge: _code(INVALID_REQUEST.number, "the request is too large", 413),
    errors.Unauthorized: _code(INVALID_APP_ID.number, "the credentials are not valid", 401),
    errors.Forbidden: _code(INVALID_APP_ID.number, "the request is not allowed", 403),
    errors.ScopeMissing: _code(INVALID_APP_ID.number, "the key does not allow this service", 403),
    errors.NotFound: NOT_FOUND,
    errors.MethodNotAllowed: _code(NOT_FOUND.number, "the address does not have this method", 405),
    errors.WrongState: INVALID_SESSION_HANDLE,
    errors.StaleEpoch: INVALID_SESSION_HANDLE,
    errors.QuotaExceeded: _code(FULL.number, "a quota has too little left", 429),
    errors.PriceMissing: _code(FULL.number, "a quota of cost applies, and there is no price", 403),
    errors.Overloaded: FULL,
    errors.ModelFailed: EXEC_FAILED,
    errors.ModelCrashed: CRASHED,
    errors.ModelTimeout: TIMEOUT,
    errors.ModelUnavailable: INACTIVE,
    errors.ModelBroken: INIT_FAILED,
    errors.AppUnavailable: INACTIVE,
    errors.ProviderFailed: CALL_FAILED,
    errors.DatabaseUnavailable: _code(SERVER_ERROR.number, "the database cannot be reached", 503),
    errors.BlobStoreUnavailable: _code(SERVER_ERROR.number, "the store of files cannot be used", 503),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The failure of a request, as its response states it."""

    code: int
    status: int  # of HTTP
    message: str


def of_error(error: errors.PenstockError) -> Outcome:
    """Return the outcome of a request that ended in an error. The message of an internal error reveals nothing.

    The code of an engine takes precedence; 0 would mean success and is not one.
    """
    found = next((_OF_ERRORS[kind] for kind in type(error).__mro__ if kind in _OF_ERRORS), SERVER_ERROR)
    detail = error.message if found is not SERVER_ERROR else _UNEXPLAINED
    if type(error) is errors.InvalidInput:
        detail = f"parameter schema validate error: {detail}"
    return Outcome(code=error.engine_code or found.number, status=found.status, message=detail)


def as_outcome(code: Code, message: str = "") -> Outcome:
    """Return a code of the table as an outcome, with a message of its own if there is one."""
    return Outcome(code=code.number, status=code.status, message=message or code.meaning)


def as_loader(outcome: Outcome, error: errors.PenstockError) -> Outcome:
    """Return an outcome as version 3 of the original loader states it: always with status 500, and with codes of its
    own for what is wrong with a request."""
    code = outcome.code
    if isinstance(error, errors.MalformedBody):
        code = 10000
    elif isinstance(error, errors.InvalidInput) and not error.engine_code:
        code = 10001
    elif code == SERVER_ERROR.number:
        code = 10002
    return Outcome(code=code, status=500, message=outcome.message)


def mapped(outcome: Outcome, code_map: Mapping[str, Any]) -> Outcome:
    """Return an outcome with the HTTP status that the schema's ``codeMap`` states for its code, if it does."""
    status = code_map.get(str(outcome.code))
    if isinstance(status, bool) or not isinstance(status, int) or not 100 <= status <= 599:
        return outcome
    return Outcome(code=outcome.code, status=status, message=outcome.message)
