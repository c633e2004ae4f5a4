"""The runtime of Python models: a class with a typed ``predict``, in an interpreter of its own.

The manifest's table::

    [python]
    class = "model:Embedding"        # module:Class; modules are searched for in the manifest's folder first
    environment = "requirements.lock"  # its packages, which `penstock model install` installs
    interpreter = "venv"             # instead: a Python, or the folder of a virtual environment
    config = { model = "tiny" }      # keyword arguments of the class

The class:

- ``predict`` is plain, async, or a generator of either kind, which streams. Its annotations become the JSON Schema.
  A parameter annotated ``Context`` gets the running call.
- ``load`` and ``unload`` (each plain or async) run once per replica. ``__init__`` runs just before ``load``.
- ``predict_batch`` takes one list with an element for each call: the value of ``predict``'s parameter where that has
  only one, else a read-only object with all parameters as attributes. It returns a list of the same length in the same
  order. An element that is an exception (``BadInput``, say) fails its own call only.
- ``session``, where there is one, runs a call whose input comes in parts: a parameter annotated ``Iterator[…]`` (in an
  ``async`` model ``AsyncIterator[…]``) iterates over them, and the other parameters are the first input. It yields
  chunks, or returns one output. It is async if ``predict`` is.
- ``BadInput`` refuses an input. Any other exception fails the call.

A call whose caller has gone is ended: a coroutine is cancelled, a generator closed, and plain code interrupted by an
exception (``Cancelled``, which does not derive from ``Exception``) as soon as it runs Python again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Final

from penstock.models.replica import interpreters
from penstock.models.replica.runtime import Runtime, Spec, unknown_options

_OPTIONS: Final = ("class", "environment", "interpreter", "config")


class PythonRuntime(Runtime):
    """``python``: runs a class as a blocking or an asynchronous model, by its ``predict``."""

    name: ClassVar[str] = "python"
    describes_itself: ClassVar[bool] = True
    batches: ClassVar[bool] = True
    sessions: ClassVar[bool] = True

    @classmethod
    def create(cls, spec: Spec) -> Runtime:
        """Import the class. Raises CallFailed (``unavailable``)."""
        from penstock.models.replica import python_model  # noqa: PLC0415  (a host checks manifests without pydantic)

        return python_model.create(spec)

    @classmethod
    def check(cls, options: Mapping[str, Any], folder: Path) -> Sequence[tuple[str, str]]:
        problems = list(interpreters.class_mistakes(options))
        if not isinstance(options.get("config", {}), Mapping):
            problems.append(("config", "must be a table: the keyword arguments of the class"))
        problems += interpreters.mistakes(options, folder)
        problems += unknown_options(cls.name, options, _OPTIONS)
        return problems

    @classmethod
    def interpreter(cls, options: Mapping[str, Any], folder: Path) -> Path | None:
        return interpreters.stated(options, folder)

    @classmethod
    def lock_files(cls, options: Mapping[str, Any], folder: Path) -> Sequence[Path]:
        return interpreters.lock_files(options, folder)
