"""Functions for commands that call a gateway."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import typer

if TYPE_CHECKING:
    from penstock.client import Client

T = TypeVar("T")


def with_client(act: Callable[[Client], Awaitable[T]]) -> T:
    """Run ``act`` with a client of the gateway that the settings name, and return its result."""
    from penstock.client import Client
    from penstock.settings import load_settings

    settings = load_settings()
    token = settings.ai_service_token

    async def run() -> T:
        async with Client(settings.penstock_url, token=token.reveal() if token else None) as client:
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
