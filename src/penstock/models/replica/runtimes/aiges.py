"""The runtime of Athena Serving's engines in Python: a ``wrapper.py`` with a class ``Wrapper``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Final

from penstock.models.replica import interpreters
from penstock.models.replica.aiges import configuration, engine_options
from penstock.models.replica.runtime import Runtime, Spec, unknown_options

_OPTIONS: Final = (
    "class", "config", "toml", "environment", "interpreter", "header_pass", "resources", "load_resources",
    "sessions", "callbacks", "realtime",
)  # fmt: skip
_FLAGS: Final = ("load_resources", "sessions", "callbacks", "realtime")


class AigesRuntime(Runtime):
    """``aiges``: runs a wrapper unchanged, by the package ``aiges`` that it imports.

    The manifest's table, in which every key is optional::

        [aiges]
        class = "wrapper:Wrapper"          # module:Class, in the manifest's folder
        environment = "requirements.lock"  # its packages, which `penstock model install` installs
        interpreter = "venv"               # instead: a Python, or the folder of a virtual environment
        config = { model = "tiny" }        # what wrapperInit gets, as text; else [wrapper] of aiges.toml
        toml = "aiges.toml"                # the file of that table; read if it is there
        header_pass = ["uid"]              # fields of a call's header that the wrapper gets as parameters, besides sid
        resources = { words = "words.zip" }  # files for wrapperLoadRes, by the names that header.res_id states
        sessions = false                   # the wrapper takes no sessions, though it has the methods
        callbacks = true                   # single calls are asynchronous, and results of sessions come by callbacks
        realtime = true                    # without callbacks: read results after each part, not only at the end
        load_resources = true              # calls may load resources, too: header.op = "AILoad"

    ``docs/athena/wrappers.md`` is its guide.
    """

    name: ClassVar[str] = "aiges"
    describes_itself: ClassVar[bool] = True

    @classmethod
    def create(cls, spec: Spec) -> Runtime:
        """Import the wrapper. Raises CallFailed (``unavailable``)."""
        from penstock.models.replica.aiges.engine import Engine  # noqa: PLC0415  (a host runs no code of models)
        from penstock.models.replica.aiges.once import OnceEngine  # noqa: PLC0415
        from penstock.models.replica.aiges.streaming import StreamingEngine  # noqa: PLC0415

        engine = Engine(spec)
        return StreamingEngine(spec, engine) if engine.streaming else OnceEngine(spec, engine)

    @classmethod
    def check(cls, options: Mapping[str, Any], folder: Path) -> Sequence[tuple[str, str]]:
        problems = list(_mistakes(options, folder))
        problems += interpreters.mistakes(options, folder)
        problems += unknown_options(cls.name, options, _OPTIONS)
        return problems

    @classmethod
    def interpreter(cls, options: Mapping[str, Any], folder: Path) -> Path | None:
        return interpreters.stated(options, folder)

    @classmethod
    def lock_files(cls, options: Mapping[str, Any], folder: Path) -> Sequence[Path]:
        return interpreters.lock_files(options, folder)


def _mistakes(options: Mapping[str, Any], folder: Path) -> Iterator[tuple[str, str]]:
    yield from interpreters.class_mistakes(options, required=False)
    toml = options.get("toml")
    if toml is not None and (not isinstance(toml, str) or not toml):
        yield "toml", f'must be the name of a file, such as "{configuration.FILE}"'
    else:
        try:
            configuration.wrapper_config({"toml": toml}, folder)
        except ValueError as error:
            yield "toml", str(error)
    yield from engine_options.mistakes(options, folder, flags=_FLAGS)
    yield from engine_options.resource_mistakes(options.get("resources", {}), folder)
