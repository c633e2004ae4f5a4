"""Fixtures of the server's tests: one server per module with the limits of production."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.support.echo_application import EchoApplication, echo_application


@pytest.fixture(scope="module")
async def app() -> AsyncIterator[EchoApplication]:
    async with echo_application() as app:
        yield app
