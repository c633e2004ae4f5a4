"""Fixtures of the models' tests."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.models import Models, model_host


@pytest.fixture
async def models(tmp_path: Path) -> AsyncIterator[Models]:
    """A host of this test's own."""
    async with model_host(tmp_path) as models:
        yield models
