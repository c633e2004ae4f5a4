"""Fixtures of the tests whose models run in environments of their own, in the user's cache folder.

``make test-heavy`` installs the environments before it runs the tests.
"""

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
