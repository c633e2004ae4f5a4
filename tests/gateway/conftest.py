"""Fixtures of the gateway's tests: one gateway per module, on the module's own database."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.support.gateways import HttpCaller, running_gateway


@pytest.fixture(scope="module")
async def caller(module_database_url: str) -> AsyncIterator[HttpCaller]:
    """Calls to an open gateway with small limits."""
    async with running_gateway(
        module_database_url, penstock_max_input_bytes=4096, penstock_max_result_bytes=8192
    ) as caller:
        yield caller
