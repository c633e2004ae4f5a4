"""Check the source of flow code when it is loaded, and compile it so that the rest is checked when it runs.

Functions that block, or that return something different on each replay, are listed by name (``FORBIDDEN``). To call one
in the body of a flow is an error at once. Other functions may be side effects, which may do anything: there the call is
compiled with a guard, which raises an error if the code of a flow is running.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from types import CodeType
from typing import Any, Final

GUARD: Final = "__penstock_guard__"  # the name of the guard among the builtins
_DECORATORS: Final = frozenset({"penstock.flows.flow", "penstock.flows.kernel.declaration.flow"})

_CLOCK: Final = "returns a different time on each replay: use run.now()"
_SLEEP: Final = "blocks all runs of the process: use await run.sleep(…)"
_RANDOM: Final = "returns something different on each replay: use run.random()"
_UUID: Final = "returns something different on each replay: use run.uuid()"
_BLOCKS: Final = "blocks all runs of the process: do it in an async function for run.side_effect, or as a job"
_THREADS: Final = (
    "runs code in an order that no replay can repeat: do it in a function for run.side_effect, or as a job"
)


def _named(module: str, names: str, advice: str) -> Mapping[str, str]:
    return dict.fromkeys((f"{module}.{name}" for name in names.split()), advice)


FORBIDDEN: Final[Mapping[str, str]] = {
    "time.sleep": _SLEEP,
    **_named("time", "time time_ns monotonic monotonic_ns perf_counter perf_counter_ns localtime gmtime", _CLOCK),
    **_named("datetime.datetime", "now utcnow today", _CLOCK),
    "datetime.date.today": _CLOCK,
    **_named(
        "random",
        "random randint randrange randbytes choice choices shuffle sample uniform triangular gauss normalvariate "
        "expovariate getrandbits seed SystemRandom",
        _RANDOM,
    ),
    **_named("secrets", "choice randbelow randbits token_bytes token_hex token_urlsafe", _RANDOM),
    "os.urandom": _RANDOM,
    **_named("uuid", "uuid1 uuid4", _UUID),
    **_named("requests", "get post put patch delete head options request Session", _BLOCKS),
    **_named("httpx", "get post put patch delete head options request stream Client", _BLOCKS),
    "urllib.request.urlopen": _BLOCKS,
    **_named("socket", "socket create_connection getaddrinfo gethostbyname", _BLOCKS),
    **_named("subprocess", "run call check_call check_output Popen", _BLOCKS),
    **_named("os", "system popen", _BLOCKS),
    "builtins.open": _BLOCKS,
    "builtins.input": _BLOCKS,
    **_named("threading", "Thread Timer", _THREADS),
    **_named("multiprocessing", "Process Pool", _THREADS),
    **_named("concurrent.futures", "ThreadPoolExecutor ProcessPoolExecutor", _THREADS),
    **_named("asyncio", "run to_thread new_event_loop", _THREADS),
}


class NotAllowed(ImportError):
    """The body of a flow calls forbidden functions; the message has a line for each call."""


def checked_code(source: Any, path: str) -> CodeType:
    """Compile the source of a file of flows. Raises SyntaxError and NotAllowed."""
    tree = ast.parse(source, path)
    names = dict(_imported(tree)) | dict.fromkeys(_bound(tree), "")
    problems = {
        (call.lineno, name)
        for function in ast.walk(tree)
        if isinstance(function, ast.AsyncFunctionDef) and _is_flow(function, names)
        for call in _calls_in_body(function)
        if (name := _resolved(call.func, names)) in FORBIDDEN
    }
    if problems:
        raise NotAllowed("\n".join(f"line {line}: {name} {FORBIDDEN[name]}" for line, name in sorted(problems)))
    return compile(_Guarding(names).visit(tree), path, "exec", dont_inherit=True)


class _Guarding(ast.NodeTransformer):
    """Replaces ``f(…)`` by ``guard(f, "module.f")(…)`` where f is forbidden."""

    def __init__(self, names: Mapping[str, str]) -> None:
        self._names = names

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        name = _resolved(node.func, self._names)
        if name in FORBIDDEN:
            guard = ast.Call(ast.Name(GUARD, ast.Load()), [node.func, ast.Constant(name)], [])
            node.func = ast.copy_location(guard, node.func)
            ast.fix_missing_locations(node)
        return node


def _imported(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """Yield the names that imports bind, each with its dotted name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                first = alias.name.partition(".")[0]
                yield (alias.asname, alias.name) if alias.asname else (first, first)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                yield alias.asname or alias.name, f"{node.module}.{alias.name}"


def _bound(tree: ast.AST) -> Iterator[str]:
    """Yield the names that the file binds in other ways; their meaning is not known."""
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                yield node.name
            case ast.arg():
                yield node.arg
            case ast.Name(ctx=ast.Store()):
                yield node.id


def _resolved(node: ast.expr, names: Mapping[str, str]) -> str:
    """Return the dotted name that an expression stands for, or "" if it is not known."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name):
        return ""
    if node.id in names:
        return ".".join([names[node.id], *reversed(parts)]) if names[node.id] else ""
    return f"builtins.{node.id}" if not parts else ""


def _is_flow(function: ast.AsyncFunctionDef, names: Mapping[str, str]) -> bool:
    return any(
        _resolved(one.func if isinstance(one, ast.Call) else one, names) in _DECORATORS
        for one in function.decorator_list
    )


def _calls_in_body(function: ast.AsyncFunctionDef) -> Iterator[ast.Call]:
    """Yield the calls that the function itself makes; functions inside may be side effects."""
    left: list[ast.AST] = list(function.body)
    while left:
        node = left.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.Call):
            yield node
        left.extend(ast.iter_child_nodes(node))
