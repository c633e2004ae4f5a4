"""The runtime of Athena Serving engines in C and C++: a ``libwrapper.so`` with the functions of ``aiges/wrapper.h``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Final

from penstock.models.replica.aiges import engine_options
from penstock.models.replica.runtime import Runtime, Spec, unknown_options

_FLAGS: Final = ("callbacks", "sessions", "realtime", "load_resources")
_OPTIONS: Final = ("library", "config", *_FLAGS, "header_pass", "resources", "schema")
_LIBRARY: Final = "./libwrapper.so"


class AigesNativeRuntime(Runtime):
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

    @classmethod
    def create(cls, spec: Spec) -> Runtime:
        """Load the library. Raises CallFailed (``unavailable``)."""
        from penstock.models.replica.aiges import native_engine  # noqa: PLC0415  (a host needs no cffi)

        return native_engine.create(spec)

    @classmethod
    def check(cls, options: Mapping[str, Any], folder: Path) -> Sequence[tuple[str, str]]:
        problems: list[tuple[str, str]] = []
        library = options.get("library", _LIBRARY)
        if not isinstance(library, str) or not library or "\0" in library:
            problems.append(("library", f'must be the path of a shared library, such as "{_LIBRARY}"'))
        elif not (folder / library).is_file():
            problems.append(("library", f"must exist in the manifest's folder: {library} (has it been compiled?)"))
        problems += engine_options.mistakes(options, folder, flags=_FLAGS)
        problems += engine_options.resource_mistakes(options.get("resources", {}), folder)
        problems += unknown_options(cls.name, options, _OPTIONS)
        return problems
