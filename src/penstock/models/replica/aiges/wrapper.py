"""A wrapper as the replica calls it: each method by its own signature, with failures that callers can read."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from penstock.failures import CallFailed, Category
from penstock.models.replica import output
from penstock.models.replica.aiges import codes, package, responses
from penstock.models.replica.aiges.calls import EngineCall
from penstock.models.replica.aiges.fields import Service
from penstock.models.replica.aiges.signatures import GIVEN, SignatureError, bound
from penstock.models.replica.importing import imported

if TYPE_CHECKING:
    from aiges.stream import WorkerThread

CLASS: Final = "wrapper:Wrapper"


class Wrapper:
    """The class of one wrapper, and its instance once it is made."""

    def __init__(self, where: str, folder: Path) -> None:
        package.ensure()
        self._class = _class_of(where, folder)
        self._methods: dict[str, Callable[..., Any]] = {}

    @property
    def service(self) -> Service:
        """The description of the wrapper."""
        from aiges.declared import service_of  # noqa: PLC0415  (found only now)

        return service_of(self._class)

    def implements(self, name: str) -> bool:
        """Return whether the wrapper has code of its own in a method."""
        from aiges.declared import implements  # noqa: PLC0415  (as above)

        return implements(self._class, name)

    @property
    def called_back(self) -> bool:
        """Whether the results of sessions come by a callback, as far as its code shows."""
        from aiges.declared import called_back  # noqa: PLC0415  (as above)

        return called_back(self._class)

    # Life

    def init(self, config: Mapping[str, str]) -> None:
        """Make the instance and initialize it. Raises CallFailed (``unavailable``)."""
        try:
            instance = self._made()
            for name, given in GIVEN.items():
                method = getattr(instance, name, None)
                if method is not None:
                    self._methods[name] = bound(method, *given)
            number = self._called("wrapperInit", dict(config))
        except SignatureError as error:
            raise codes.failed(codes.INIT_RAISED, str(error), category=Category.UNAVAILABLE) from None
        except responses.RAISED as error:  # the wrapper's code
            output.failed(error)
            failure = responses.raised(error, "wrapperInit")
            raise codes.failed(codes.INIT_RAISED, failure.message, category=Category.UNAVAILABLE) from error
        if number:
            message = f"wrapperInit returned {number!r}{self._text(number)}"
            raise codes.failed(codes.INIT_REFUSED, message, category=Category.UNAVAILABLE)

    def fini(self) -> None:
        """Release the model; failures are only logged."""
        try:
            self._called("wrapperFini")
        except responses.RAISED as error:  # the wrapper's code; no call waits for it
            output.failed(error)

    def load_resource(self, data: EngineCall, resource: int | str) -> None:
        self._checked(codes.LOAD, "wrapperLoadRes", data_list(data), resource)

    def unload_resource(self, resource: int | str) -> None:
        self._checked(codes.UNLOAD, "wrapperUnloadRes", resource)

    # Calls

    def once(self, params: Mapping[str, str], data: EngineCall, tag: str, resource: int | str) -> Any:
        """Return what ``wrapperOnceExec`` returns."""
        return self._methods["wrapperOnceExec"](dict(params), data_list(data), tag, resource)

    def once_async(self, params: Mapping[str, str], data: EngineCall, sid: str, resource: int | str) -> None:
        """Begin an asynchronous call, whose result comes by a callback. Raises CallFailed."""
        self._checked(codes.ASYNC, "wrapperOnceExecAsync", dict(params), data_list(data), sid, resource, sid)

    def create(self, params: Mapping[str, str], sid: str, resource: int | str) -> Handle:
        """Create a session. Raises CallFailed."""
        from aiges.stream import holding  # noqa: PLC0415  (as above)

        with holding() as held:
            handle = Handle(held)
            try:
                created = self._reported("wrapperCreate", dict(params), sid, resource, sid)
                number = created if isinstance(created, int) else responses.error_number(created)
                if number:
                    raise codes.refused(codes.CREATE, number, self.error_text(number))
                handle.name = _name_of(created)
            except BaseException:  # also if the caller leaves meanwhile
                handle.release()
                raise
        return handle

    def write(self, handle: str, data: EngineCall, sid: str) -> None:
        """Pass a part to a session. Raises CallFailed."""
        self._checked(codes.WRITE, "wrapperWrite", handle, data_list(data), sid)

    def read(self, handle: str, sid: str) -> Any:
        """Return what ``wrapperRead`` returns. Raises CallFailed."""
        return self._reported("wrapperRead", handle, sid)

    def destroy(self, handle: str, sid: str) -> None:
        """Destroy a session. Raises CallFailed."""
        self._checked(codes.DESTROY, "wrapperDestroy", handle, sid)

    def error_text(self, number: int) -> str:
        """Return the wrapper's text for a number; "" if it has none, or fails to give it."""
        try:
            text = self._called("wrapperError", number)
        except responses.RAISED as error:  # the wrapper's code; the number itself is reported
            output.failed(error)
            return ""
        return text if isinstance(text, str) else ""

    def _called(self, name: str, *values: Any) -> Any:
        method = self._methods.get(name)
        return None if method is None else method(*values)

    def _checked(self, code: int, name: str, *values: Any) -> None:
        """Call a method that returns the number of an error, or 0. Raises CallFailed."""
        number = responses.number_of(self._reported(name, *values), name)
        if number:
            raise codes.refused(code, number, self.error_text(number))

    def _reported(self, name: str, *values: Any) -> Any:
        """Call a method whose exceptions are reported to the caller. Raises CallFailed."""
        try:
            return self._called(name, *values)
        except responses.RAISED as error:  # the wrapper's code
            output.failed(error)
            raise responses.raised(error, name) from error

    def _made(self) -> Any:
        """Return an instance, constructed as the original's plug-in does where the class takes its arguments."""
        stated = {"legacy": False, "is_aipaas": True, "keep_schema_default_value": True}
        parameters = inspect.signature(self._class).parameters
        takes_all = any(one.kind is one.VAR_KEYWORD for one in parameters.values())
        return self._class(**{name: value for name, value in stated.items() if takes_all or name in parameters})

    def _text(self, number: Any) -> str:
        text = self.error_text(number) if isinstance(number, int) else ""
        return f": {text}" if text else ""


def _class_of(where: str, folder: Path) -> type:
    """Return the wrapper's class, or one for the functions of its module, as the oldest wrappers are. Raises
    CallFailed (``unavailable``)."""
    try:
        return imported(where, folder)
    except CallFailed as failure:
        module = sys.modules.get(where.partition(":")[0])
        if module is not None:
            from aiges.functions import class_of  # noqa: PLC0415  (found only after the package was ensured)

            found = class_of(module)
            if found is not None:
                return found
        raise codes.failed(codes.INIT_RAISED, failure.message, category=Category.UNAVAILABLE) from failure


class Handle:
    """A session of the wrapper, with the handles of our own pools that it holds."""

    def __init__(self, held: list[WorkerThread]) -> None:
        self.name = ""
        self._held = held

    def release(self) -> None:
        """Give the handles back, whether the wrapper has done so or not."""
        for one in self._held:
            one.release()


def _name_of(created: Any) -> str:
    """Return the handle that ``wrapperCreate`` returned. Raises CallFailed."""
    name = created if isinstance(created, str) else getattr(created, "handle", None)
    if not isinstance(name, str) or not name:
        what = "nothing" if created is None else f"a {type(created).__name__} without a handle"
        raise codes.failed(codes.CREATE, f"wrapperCreate returned {what}")
    return name


def data_list(given: EngineCall) -> Any:
    """Return data objects as wrappers get them. Their bytes stay valid when the call has ended."""
    from aiges.dto import DataListCls, DataListNode  # noqa: PLC0415  (found only after the package was ensured)

    return DataListCls(
        DataListNode(item.key, bytes(item.data), item.kind, item.status, item.attributes) for item in given.items
    )
