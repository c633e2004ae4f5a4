"""A worker follows the models of a gateway."""

from __future__ import annotations

import asyncio

import pytest

from penstock.client import Client
from penstock.workers import gateway_models
from penstock.workers.gateway_models import GatewayModels
from tests.support.http_servers import responding, serving
from tests.support.waiting import within

_MODEL = {"name": "one", "tenant": None, "tenants": None, "places": 2}


async def test_all_readers_share_the_polls_of_the_list(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway_models, "_POLL_SECONDS", 60.0)
    async with serving(responding({"models": [_MODEL], "problems": []})) as gateway, Client(gateway.address) as client:
        models = GatewayModels(client)
        found = await within(asyncio.gather(*(anext(models.names()) for _ in range(3))))
        assert [list(one) for one in found] == [["one"]] * 3
        assert len(gateway.paths) == 1
