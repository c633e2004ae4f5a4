"""The plans of statements on items, as our sessions run them: bounded index scans."""

from __future__ import annotations

import json
from typing import Any

import pytest

from penstock.collections import store
from penstock.collections.service import CollectionService
from penstock.postgres.pool import Database
from penstock.tenants.principal import TenantId
from tests.support.collections import collection, random_vectors

PLACE = {"tenant_id": 1, "collection_id": 1}
STATEMENTS: dict[str, dict[str, Any]] = {
    "items": {"after": "", "limit": 5, "with_vectors": False},
    "items_of_group": {"group_name": "g", "after": "", "limit": 5, "with_vectors": False},
    "items_by_key": {"keys": ["a"], "with_vectors": False},
    "delete_keys": {"keys": ["a"]},
    "delete_group": {"group_name": "g", "limit": 5},
    "delete_some": {"limit": 5},
}
INDEXES = {"items_of_group": "collection_item_group", "delete_group": "collection_item_group"}


def nodes(plan: dict[str, Any]) -> list[dict[str, Any]]:
    return [plan, *(node for inner in plan.get("Plans", []) for node in nodes(inner))]


@pytest.mark.parametrize("name", STATEMENTS)
async def test_a_statement_uses_its_index(
    service: CollectionService, tenant: TenantId, database: Database, name: str
) -> None:
    await collection(service, tenant, random_vectors(300, 2))
    statement = store._sql.statements[name]
    arguments = statement.arguments({**PLACE, **STATEMENTS[name]})
    async with database.acquire() as connection, connection.transaction():
        rows = await connection.fetch(f"EXPLAIN (FORMAT JSON) {statement.sql}", *arguments)
    plan = rows[0][0]
    found = nodes(json.loads(plan if isinstance(plan, str) else bytes(plan))[0]["Plan"])
    scans = [node for node in found if node.get("Relation Name") == "collection_item" and "Scan" in node["Node Type"]]
    assert scans
    assert {node["Node Type"] for node in scans} <= {"Index Scan", "Index Only Scan"}
    assert INDEXES.get(name, "collection_item_pkey") in {node["Index Name"] for node in scans}
