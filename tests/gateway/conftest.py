"""Fixtures of the gateway's tests: one gateway per module, on the module's own database."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.gateway.stage import Caller, serving


@pytest.fixture(scope="module")
async def caller(module_database_url: str) -> AsyncIterator[Caller]:
    """Calls to an open gateway with small limits."""
    async with serving(module_database_url, penstock_max_input_bytes=4096, penstock_max_result_bytes=8192) as caller:
        yield caller
