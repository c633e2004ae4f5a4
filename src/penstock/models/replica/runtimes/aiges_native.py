"""The runtime of Athena Serving engines in C and C++: a ``libwrapper.so`` with the functions of ``aiges/wrapper.h``."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final
from uuid import uuid4

from penstock.models.replica.aiges import calls, engine_options, schema_file
from penstock.models.replica.aiges.calls import EngineCall
from penstock.models.replica.runtime import AsyncRuntime, Call, Output, Schema, Spec, unknown_options
from penstock.models.replica.sessions import AsyncSessions, Session

if TYPE_CHECKING:
    from penstock.models.replica.aiges.library import Library
    from penstock.models.replica.aiges.native_calls import NativeCalls
    from penstock.models.replica.aiges.native_resources import NativeResources

_log = logging.getLogger("penstock.model")
_LEVELS: Final = {"debug": 10, "info": 20, "warning": 30, "error": 40}
_OPTIONS: Final = (
    "library",
    "config",
    "callbacks",
    "realtime",
    "header_pass",
    "resources",
    "load_resources",
    "schema",
    "sessions",
)
_FLAGS: Final = ("callbacks", "realtime", "sessions", "load_resources")
_LIBRARY: Final = "./libwrapper.so"


class AigesNativeRuntime(AsyncRuntime, AsyncSessions):
    """``aiges-native``: a shared library with the C interface of Athena Serving, loaded into the replica.

    The manifest's table, in which every key is optional::

        [aiges-native]
        library = "./libwrapper.so"  # in the manifest's folder
        config = { model = "tiny" }  # what wrapperInit gets, as text
        callbacks = true             # results come by callbacks: wrapperExecAsync, and wrapperCreate with one
        realtime = true              # without callbacks: read results after each part of a session, not only at its end
        header_pass = ["uid"]        # fields of a call's header that the engine gets as parameters, besides sid
        sessions = true              # the engine takes sessions
        schema = "schema.json"       # describes the engine; that file is read, if it is there
        resources = { words = "words.txt" }  # files for wrapperLoadRes, by the names that header.res_id states
        load_resources = true        # calls may load resources, too: header.op = "AILoad"

    ``include/aiges/wrapper.h`` states the interface; ``docs/athena/engines.md`` is its guide. Calls into the library
    run in as many threads as the replica has places; the interpreter's lock is free meanwhile.
    """

    name: ClassVar[str] = "aiges-native"
    describes_itself: ClassVar[bool] = True

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        self._library: Library | None = None
        self._resources: NativeResources
        self._calls: NativeCalls

    @classmethod
    def check(cls, options: Mapping[str, Any], folder: Path) -> Sequence[tuple[str, str]]:
        problems: list[tuple[str, str]] = []
        library = options.get("library", _LIBRARY)
        if not isinstance(library, str) or not library or "\0" in library:
            problems.append(("library", f'must be the path of a shared library, such as "{_LIBRARY}"'))
        elif not (folder / library).is_file():
            problems.append(("library", f"must exist in the manifest's folder: {library} (has it been compiled?)"))
        problems += engine_options.mistakes(options, folder, flags=_FLAGS)
        problems += _resource_mistakes(options.get("resources", {}), folder)
        problems += unknown_options(cls.name, options, _OPTIONS)
        return problems

    # Life

    def describe(self) -> Schema:
        """Load the library to read its version, and read the file that describes the engine."""
        version = self._opened().version
        return schema_file.stated(self.spec, version=version) or schema_file.any_engine(self.spec, version=version)

    async def load(self) -> None:
        """Load the engine, on the main thread."""
        from penstock.models.replica.aiges.native_calls import NativeCalls  # noqa: PLC0415  (a host needs no cffi)
        from penstock.models.replica.aiges.native_resources import NativeResources  # noqa: PLC0415  (as above)

        library, options = self._opened(), self.spec.options
        library.init({name: calls.text_of(value) for name, value in options.get("config", {}).items()})
        self._resources = NativeResources(library, loadable=bool(options.get("load_resources", False)))
        self._resources.load_files(options.get("resources", {}), self.spec.folder)
        self._calls = NativeCalls(
            library,
            places=self.spec.concurrency,
            called_back=bool(options.get("callbacks", False)),
            realtime=bool(options.get("realtime", False)),
        )
        _log.info("version %s of the engine is loaded", library.version)

    async def unload(self) -> None:
        self._calls.close()
        self._resources.unload_all()
        self._opened().fini()

    def _opened(self) -> Library:
        """Return the library, loaded once for this process."""
        if self._library is None:
            from penstock.models.replica.aiges.library import Library  # noqa: PLC0415  (as above)

            self._library = Library(self.spec.folder / self.spec.options.get("library", _LIBRARY), _note)
        return self._library

    # Calls

    async def predict(self, call: Call) -> Output:
        given = calls.read(call.input, call.segments)
        if self._resources.is_operation(given):
            await self._calls.in_thread(self._resources.operate, given)
            return calls.write([])
        return await self._calls.once(call, given, self._params(given), self._resources.wanted(given))

    async def session(self, session: Session) -> None:
        given = calls.read(session.input, session.segments)
        await self._calls.session(session, given, self._params(given), self._resources.wanted(given))

    def _params(self, given: EngineCall) -> dict[str, str]:
        passed: Sequence[str] = self.spec.options.get("header_pass", ())
        return given.passed(passed, given.header.get("sid") or uuid4().hex)


def _note(call: Call | None, level: str, message: str) -> None:
    """Write a line of the engine into the model's log."""
    if call is None:
        _log.log(_LEVELS[level], message)
    else:
        call.log(message, level)


def _resource_mistakes(resources: Any, folder: Path) -> list[tuple[str, str]]:
    if not isinstance(resources, Mapping):
        return [("resources", "must be a table of files by the names that calls state")]
    return [
        (f"resources.{name}", f"must be a file in the manifest's folder: {path}")
        for name, path in resources.items()
        if not engine_options.is_file(path, folder)
    ]
