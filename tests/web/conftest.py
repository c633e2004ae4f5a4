"""What the tests of the server share: one server per module with the limits of production."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.web.stage import Stage, serving


@pytest.fixture(scope="module")
async def stage() -> AsyncIterator[Stage]:
    async with serving() as stage:
        yield stage
