"""Try a wrapper by itself: call it as a replica does, with the test values of its fields, and say what is wrong.

python -m aiges.local wrapper.py [--stream]
"""

from __future__ import annotations

import queue
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from aiges import replies
from aiges.declared import accepts_of, called_back, fields_of, implements, service_of
from aiges.dto import DataListCls, DataListNode, Response, SessionCreateResponse
from aiges.utils.log import log
from penstock.failures import CallFailed
from penstock.models.replica.aiges import kinds, responses
from penstock.models.replica.aiges.calls import text_of
from penstock.models.replica.aiges.configuration import wrapper_config
from penstock.models.replica.aiges.signatures import GIVEN, SignatureError, bound
from penstock.models.replica.importing import imported

Problems = Sequence[str]

WAIT_SECONDS: Final = 60.0  # for the next result of a session, or of an asynchronous call

_SID: Final = "local-1"
_WORDS: Final = ("text", "audio", "image", "video", "other")


def problems_of(wrapper: Any, response: Any, *, stream: bool = False) -> Problems:
    """Return what is wrong with a response, in words; nothing if callers can be given it."""
    if not isinstance(response, Response):
        what = "nothing" if response is None else f"a {type(response).__name__}"
        return [f"{what} was returned instead of a Response (of aiges.dto)"]
    if response.error_code:
        return []
    if not response.list:
        return ["the Response has no data: put ResponseData into its `list`"]
    problems: list[str] = []
    for one in response.list:
        problems += _of_data(one, stream=stream)
    keys = [one.key for one in response.list]
    problems += [f"{key}: {keys.count(key)} results have this key; only the last is kept" for key in _repeated(keys)]
    problems += _of_types(wrapper, response)
    return problems


def once(wrapper: Any) -> bool:
    """Initialize a wrapper and run one call. Return whether all is right; print it."""
    return _Trial(wrapper).once()


def stream(wrapper: Any) -> bool:
    """Initialize a wrapper and run one session of a single part. Return whether all is right; print it."""
    return _Trial(wrapper).stream()


def schema(wrapper: Any) -> str:
    """Return the schema of a wrapper's service as JSON text, in the dialect that the wrapper was made for."""
    from penstock.athena.protocol.schemas.description import of_engine  # noqa: PLC0415  (a trial needs none of it)
    from penstock.athena.protocol.schemas.dialects import Dialect, document_of  # noqa: PLC0415

    dialect = Dialect.LEGACY if getattr(wrapper, "legacy", True) else Dialect.CURRENT
    document = msgspec.json.encode(document_of(of_engine(service_of(wrapper)), dialect))
    return msgspec.json.format(document, indent=4).decode()


class _Problem(Exception):
    """Something is wrong, as its text says."""


class _Trial:
    """One run of a wrapper outside of a replica."""

    def __init__(self, wrapper: Any) -> None:
        self._wrapper = wrapper
        self._results: queue.Queue[Any] = queue.Queue()

    def once(self) -> bool:
        return self._run(self._once)

    def stream(self) -> bool:
        return self._run(self._stream)

    # For aiges.callback

    def deliver(self, response: Any, names: tuple[object, ...]) -> int:
        if _SID not in names:
            log.error("a result was sent for %r instead of the sid %r", names[-1:] or None, _SID)
            return -1
        self._results.put(response)
        return 0

    def failed(self, sid: str, error: BaseException | None) -> None:
        self._results.put(error or RuntimeError("a thread of the wrapper has ended before its session"))

    def counted(self, tag: str, key: str, count: int) -> None:
        log.info("%s: counted %d", key, count)

    def noted(self, tag: str, message: str) -> None:
        log.info("%s", message)

    def _run(self, what: Callable[[], None]) -> bool:
        replies.attach(self)
        try:
            self._init()
            what()
            self._call("wrapperFini")
        except _Problem as problem:
            log.error("%s", problem)
            log.error("the wrapper is not right yet")
            return False
        log.info("the wrapper is right")
        return True

    def _init(self) -> None:
        try:
            config = wrapper_config({"config": stated} if (stated := self._wrapper.config) else {}, Path.cwd())
        except ValueError as error:
            raise _Problem(str(error)) from None
        number = self._call("wrapperInit", config)
        if number:
            raise _Problem(f"wrapperInit returned {number!r}; 0 means that it worked")

    def _once(self) -> None:
        if implements(self._wrapper, "wrapperOnceExec") or not implements(self._wrapper, "wrapperOnceExecAsync"):
            self._check("wrapperOnceExec", self._call("wrapperOnceExec", self._params(), self._data(), _SID, 0))
            return
        number = self._call("wrapperOnceExecAsync", self._params(), self._data(), _SID, 0, _SID)
        if number:
            raise _Problem(f"wrapperOnceExecAsync returned {number!r}{self._text(number)}")
        self._check("wrapperOnceExecAsync", self._next())

    def _stream(self) -> None:
        created = self._call("wrapperCreate", self._params(), _SID, 0, _SID)
        if not isinstance(created, SessionCreateResponse):
            what = type(created).__name__
            raise _Problem(f"wrapperCreate returned a {what} instead of a SessionCreateResponse")
        if created.error_code:
            raise _Problem(f"wrapperCreate states error_code {created.error_code}{self._text(created.error_code)}")
        handle = created.handle
        number = self._call("wrapperWrite", handle, self._data(), _SID)
        if number:
            raise _Problem(f"wrapperWrite returned {number!r}{self._text(number)}")
        while True:
            response = self._next() if called_back(self._wrapper) else self._call("wrapperRead", handle, _SID)
            self._check("a result of the session", response, stream=True)
            if any(one.status in (kinds.END, kinds.ONCE) for one in response.list):
                break
        self._call("wrapperDestroy", handle, _SID)

    def _next(self) -> Any:
        try:
            result = self._results.get(timeout=WAIT_SECONDS)
        except queue.Empty:
            raise _Problem(f"no result came by callback within {WAIT_SECONDS:.0f} seconds") from None
        if isinstance(result, BaseException):
            raise _Problem(f"a thread of the wrapper failed: {type(result).__name__}: {result}")
        return result

    def _check(self, method: str, response: Any, *, stream: bool = False) -> None:
        problems = problems_of(self._wrapper, response, stream=stream)
        if problems:
            raise _Problem("\n".join(f"{method}: {problem}" for problem in problems))
        if response.error_code:
            raise _Problem(f"{method} states error_code {response.error_code}{self._text(response.error_code)}")
        for one in response.list:
            log.info("%s: %s of %d bytes, status %s", one.key, _WORDS[one.type], len(one.data), one.status)

    def _call(self, name: str, *values: Any) -> Any:
        method = getattr(self._wrapper, name, None)
        if method is None:
            raise _Problem(f"the wrapper has no method {name}")
        try:
            return bound(method, *GIVEN[name])(*values)
        except SignatureError as error:
            raise _Problem(str(error)) from None
        except Exception as error:  # the wrapper's code
            traceback.print_exc()
            raise _Problem(f"{name} raised {type(error).__name__}: {error}") from error

    def _text(self, number: Any) -> str:
        text = self._call("wrapperError", number)
        return f": {text}" if text else "; wrapperError has no text for it"

    def _params(self) -> dict[str, str]:
        """Return the test values of parameters as text, as replicas send all of them."""
        values = {field.key: field.test_value for field in fields_of(self._wrapper.requestCls)[1]}
        return {key: text_of(value) for key, value in values.items()} | {"sid": _SID}

    def _data(self) -> DataListCls:
        inputs = fields_of(self._wrapper.requestCls)[0]
        return DataListCls(DataListNode(field.key, field.test_value, field.data_type, kinds.ONCE) for field in inputs)


def _of_data(one: Any, *, stream: bool) -> Problems:
    problems: list[str] = []
    key = getattr(one, "key", "")
    try:
        item = responses.items_of(Response([one]), "the wrapper")[0]
    except CallFailed as failure:
        return [failure.message]
    if isinstance(one.data, str):
        problems.append(f"{key}: data is text; it must be bytes: encode it")
    elif one.len != len(item.data):
        problems.append(f"{key}: len is {one.len}, and data has {len(item.data)} bytes: use setData")
    if not stream and item.status != kinds.ONCE:
        problems.append(f"{key}: status is {item.status}; the result of a single call has the status Once (3)")
    return problems


def _of_types(wrapper: Any, response: Response) -> Problems:
    accepts = {field.key: field.data_type for field in accepts_of(wrapper.responseCls)}
    problems: list[str] = []
    for one in response.list:
        if one.key not in accepts:
            there = ", ".join(accepts) or "none"
            problems.append(f"{one.key}: responseCls declares no result of this key; there are: {there}")
        elif one.type != accepts[one.key]:
            stated, declared = _WORDS[one.type], _WORDS[accepts[one.key]]
            problems.append(f"{one.key}: is {stated}, and responseCls declares {declared}: use setDataType")
    return problems


def _repeated(keys: Sequence[str]) -> list[str]:
    return sorted({key for key in keys if keys.count(key) > 1})


def main(arguments: Sequence[str]) -> int:
    """Try the wrapper of a file. Return the status of the process: 1 if something is wrong."""
    paths = [one for one in arguments if not one.startswith("-")]
    if len(paths) != 1 or not set(arguments) <= {*paths, "--stream"}:
        print("usage: python -m aiges.local wrapper.py [--stream]", file=sys.stderr)  # noqa: T201
        return 2
    path = Path(paths[0]).absolute()
    wrapper = imported(f"{path.stem}:Wrapper", path.parent)()
    return 0 if (stream(wrapper) if "--stream" in arguments else once(wrapper)) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
