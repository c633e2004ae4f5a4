"""Providers and profiles for tests."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

from penstock.providers.endpoint import Endpoint
from penstock.providers.profile import Kind, Mode, Profile, ProviderSpec
from penstock.providers.servers import Servers

KEY = "sk-very-secret-key"


def spec(
    url: str, *, name: str = "llm", kind: Kind = Kind.CHAT, api_key: str | None = KEY, **fields: Any
) -> ProviderSpec:
    """Return a provider at an address."""
    stated: dict[str, Any] = {"model": "qwen", "timeout": timedelta(seconds=20)} | fields
    return ProviderSpec(name=name, kind=kind, endpoint=Endpoint(base_url=url, api_key=api_key), **stated)


def profile(*specs: ProviderSpec, mode: Mode = Mode.FIRST, **defaults: Any) -> Profile:
    """Return a profile with these providers."""
    return Profile(name="qwen", providers=specs, mode=mode, defaults=defaults)


@asynccontextmanager
async def open_servers() -> AsyncIterator[Servers]:
    """Yield connections to providers, and close them at the end."""
    servers = Servers()
    try:
        yield servers
    finally:
        await servers.close()
