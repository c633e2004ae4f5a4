"""Functions for commands that call a gateway."""

from __future__ import annotations

import asyncio
import inspect
import sys
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeVar

import typer

if TYPE_CHECKING:
    from penstock.client import Client

T = TypeVar("T")
Command = TypeVar("Command", bound=Callable[..., Any])
_Tenant = Annotated[str | None, typer.Option("--tenant", metavar="NAME", help="For operators: the tenant to act for.")]
_tenant: Final[ContextVar[str | None]] = ContextVar("tenant", default=None)  # the value of --tenant


def command(app: typer.Typer, name: str | None = None) -> Callable[[Command], Command]:
    """Add a command that calls the gateway. It takes ``--tenant`` too, which ``with_client`` reads."""

    def add(function: Command) -> Command:
        app.command(name)(_with_tenant(function))
        return function

    return add


def _with_tenant(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a command with one more option, which typer finds in its signature."""

    @wraps(function)
    def run(*arguments: Any, tenant: str | None = None, **options: Any) -> Any:
        stated = _tenant.set(tenant)
        try:
            return function(*arguments, **options)
        finally:
            _tenant.reset(stated)

    signature = inspect.signature(function, eval_str=True)
    option = inspect.Parameter("tenant", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=_Tenant)
    run.__signature__ = signature.replace(parameters=[*signature.parameters.values(), option])  # type: ignore[attr-defined]  # inspect.signature reads it
    return run


def with_client(act: Callable[[Client], Awaitable[T]], *, of_tenant: bool = True, url: str | None = None) -> T:
    """Run ``act`` with a client of the gateway at ``url``, or that the settings name, and return its result.

    The client names the tenant that ``--tenant`` or the settings state, unless ``of_tenant`` is false. A gateway other
    than that of the settings gets no key.
    """
    from penstock.client import Client
    from penstock.settings import load_settings

    settings = load_settings()
    other = url is not None and url.rstrip("/") != settings.penstock_url.rstrip("/")
    token = None if other else settings.penstock_key or settings.ai_service_token
    address = url or settings.penstock_url
    tenant = (_tenant.get() or settings.penstock_tenant) if of_tenant else None

    async def run() -> T:
        async with Client(address, token=token.reveal() if token else None, tenant=tenant) as client:
            return await act(client)

    return asyncio.run(run())


def read_input(text: str) -> Any:
    import json

    try:
        if text == "-":
            text = sys.stdin.read()
        elif text.startswith("@"):
            text = Path(text[1:]).read_text(encoding="utf-8")
        return json.loads(text)
    except OSError as error:
        raise typer.BadParameter(f"{error.filename}: {error.strerror}", param_hint="--input") from None
    except ValueError:
        raise typer.BadParameter("is not valid JSON", param_hint="--input") from None
