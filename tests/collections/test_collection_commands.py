"""``penstock collection`` on a running gateway."""

from __future__ import annotations

import json
from pathlib import Path

from penstock.client import Client
from tests.support.command_line import run_command
from tests.support.gateways import running_gateway


async def test_collections_are_listed_shown_and_deleted(module_database_url: str, tmp_path: Path) -> None:
    async with running_gateway(module_database_url) as gateway, Client(gateway.address) as client:

        async def run(*arguments: str) -> str:
            result = await run_command(tmp_path, "collection", *arguments, PENSTOCK_URL=gateway.address)
            assert result.status == 0, result
            return result.out

        await client.create_collection("colours", 1, "l2")
        groups = {"a": "warm", "b": "cold", "c": "cold"}
        items = [{"key": key, "vector": [1.0], "group": group} for key, group in groups.items()]
        await client.upsert_items("colours", items)
        (listed,) = json.loads(await run("list"))
        assert (listed["name"], listed["items"]) == ("colours", 3)
        shown = json.loads(await run("show", "colours", "--group", "cold", "--limit", "1"))
        assert (shown["metric"], [one["key"] for one in shown["items"]], shown["next"]) == ("l2", ["b"], "b")
        assert "deleted 2 items" in await run("delete", "colours", "--group", "cold")
        assert "deleted 1 items" in await run("delete", "colours", "--key", "a")
        assert "deleted the collection colours" in await run("delete", "colours")
        assert json.loads(await run("list")) == []
