"""Whether the configured AI providers can be reached. Nothing secret is ever part of the answer."""

from __future__ import annotations

import asyncio
import time

import aiohttp
import msgspec
from msgspec import Struct
from pydantic import SecretStr
from yarl import URL

from penstock.settings import Settings

_SECONDS = 3.0
_MOST_BYTES = 2**20


class ProviderStatus(Struct, frozen=True, kw_only=True):
    """One provider. ``reachable`` is null where none is configured."""

    name: str
    configured: bool
    reachable: bool | None = None
    latency_ms: float | None = None
    models: list[str] = []  # those that an OpenAI-compatible provider lists
    error: str | None = None


class ProvidersStatus(Struct, frozen=True, kw_only=True):
    providers: list[ProviderStatus]


class _Models(Struct):
    class Model(Struct):
        id: str

    data: list[Model]


async def check(settings: Settings) -> ProvidersStatus:
    """Ask every configured provider at once, for three seconds at most."""
    asked = (
        ("llm", settings.llm_base_url, settings.llm_api_key, "/models"),
        ("whisperx", settings.whisperx_url, None, ""),
        ("qwen2-audio", settings.qwen_audio_base_url, settings.qwen_audio_key, "/models"),
        ("voxtral-small", settings.voxtral_base_url, settings.voxtral_key, "/models"),
    )
    timeout = aiohttp.ClientTimeout(total=_SECONDS)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        return ProvidersStatus(providers=await asyncio.gather(*(_ask(session, *one) for one in asked)))


async def _ask(
    session: aiohttp.ClientSession, name: str, url: str | None, key: SecretStr | None, path: str
) -> ProviderStatus:
    if url is None:
        return ProviderStatus(name=name, configured=False)
    began = time.perf_counter()
    try:
        target = URL(url)
        target = target.with_path(target.raw_path.rstrip("/") + path, encoded=True, keep_query=True)
        headers = {}
        if key is not None:  # before a password in the URL: aiohttp takes only one of the two
            headers["Authorization"] = f"Bearer {key.get_secret_value()}"
            target = target.with_user(None)
        async with session.get(target, headers=headers, allow_redirects=False) as reply:
            body = await reply.content.read(_MOST_BYTES)
            status = reply.status
    except TimeoutError:
        return ProviderStatus(name=name, configured=True, reachable=False, error=f"no answer within {_SECONDS:g} s")
    except (aiohttp.ClientError, OSError, ValueError) as error:
        # Only the kind: a message may quote the URL, and the URL may hold a password.
        return ProviderStatus(name=name, configured=True, reachable=False, error=type(error).__name__)
    latency = round(1000 * (time.perf_counter() - began), 1)
    return ProviderStatus(
        name=name,
        configured=True,
        reachable=status < 500,
        latency_ms=latency,
        models=_models(body) if path else [],
        error=f"HTTP status {status}" if status >= 400 and path else None,
    )


def _models(body: bytes) -> list[str]:
    try:
        return [model.id for model in msgspec.json.decode(body, type=_Models).data][:100]
    except msgspec.MsgspecError:
        return []
