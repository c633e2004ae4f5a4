"""The access check of a request with a known key, compared with the token and with a bare dictionary look-up."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

from benchmarks.figures import Figure
from benchmarks.ground import fresh_database
from penstock.access.audit import Sender
from penstock.access.instance import Instance
from penstock.access.key import KeyCreation
from penstock.access.part import AccessParts
from penstock.access.secret_file import SecretSource
from penstock.masking import Secret
from penstock.postgres.embedded import EmbeddedServer
from penstock.postgres.pool import Database
from penstock.postgres.wakeups import Wakeups
from penstock.settings import load_settings
from penstock.tenants import scopes
from penstock.tenants.principal import OPERATOR, Principal
from penstock.web.body import Body
from penstock.web.request import Request

_ROUNDS = 7
_CALLS = 50_000
_KEYS = 1000


async def run(server: EmbeddedServer) -> list[Figure]:
    """Measure with a thousand keys that are known, in turns; the fastest round of each counts."""
    async with fresh_database(server) as url:
        settings = load_settings(None).replace(
            database_url=Secret(url),
            ai_service_token=Secret("the-token"),
            penstock_secret_key=Secret("A" * 43),
            penstock_auth_stale=timedelta(hours=1),
            penstock_data_dir=Path("unused"),
        )
        database = Database(url, application_name="penstock-benchmark")
        source = SecretSource(settings.penstock_secret_key, settings.penstock_data_dir)
        parts = AccessParts(settings, database, Wakeups(database), Instance(database, source))
        sender = Sender(principal=OPERATOR, address="")
        keys = [
            (await parts.service.create_key(sender, KeyCreation(name=f"key {number}", scopes=["jobs:read"]))).key
            for number in range(_KEYS)
        ]
        requests = [_request(key) for key in keys]
        await parts.watch.once()
        await asyncio.gather(*(_identified(parts, request) for request in requests))
        await parts.watch.once()
        token = _request("the-token")
        check = parts.access.check

        def by_key(number: int) -> None:
            principal = check(requests[number % _KEYS])
            assert isinstance(principal, Principal)
            principal.require(scopes.JOBS_READ)

        def by_token(_number: int) -> None:
            check(token)

        best = {by_key: 1.0, by_token: 1.0}
        for _ in range(_ROUNDS):
            best = {checked: min(seconds, _seconds(checked)) for checked, seconds in best.items()}
        await database.close()
    return [
        Figure(
            scenario="access check of a known key, with its scope",
            value=1e6 * best[by_key],
            unit="µs",
            promise=1.5,
            at_most=True,
            note=f"{_KEYS} keys in turns",
        ),
        Figure(scenario="access check of AI_SERVICE_TOKEN", value=1e6 * best[by_token], unit="µs"),
    ]


def _seconds(checked: Callable[[int], None]) -> float:
    began = time.process_time()
    for number in range(_CALLS):
        checked(number)
    return (time.process_time() - began) / _CALLS


async def _identified(parts: AccessParts, request: Request) -> None:
    principal = parts.access.check(request)
    if not isinstance(principal, Principal):
        await principal


def _request(key: str) -> Request:
    headers = {b"authorization": b"Bearer " + key.encode(), b"host": b"127.0.0.1:8080"}
    return Request(method="GET", url_path="/api/v1/jobs", headers=headers, body=Body(lambda: None))
