"""Requests generated from the OpenAPI document: no response is a 500, and every response is documented."""

from __future__ import annotations

import asyncio
import sys
from asyncio.subprocess import PIPE, STDOUT
from pathlib import Path

import pytest

from penstock.masking import Secret
from tests.support.gateways import running_gateway
from tests.support.processes import clean_environment

HOOKS = Path(__file__).with_name("schemathesis_hooks.py")
CONFIG = Path(__file__).with_name("schemathesis.toml")


@pytest.mark.timeout(1200)  # against hanging: it takes about 60 s of CPU, and other tests run beside it
async def test_the_service_behaves_as_described(module_database_url: str, tmp_path: Path) -> None:
    async with running_gateway(module_database_url, ai_service_token=Secret("the-token")) as caller:
        caller.gateway.stopping.set()  # so that nothing waits: neither long-polls nor event streams
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "schemathesis.cli", "--config-file", str(CONFIG)),
            *("run", f"{caller.address}/openapi.json"),
            *("--header", "Authorization: Bearer the-token"),
            *("--checks", "all", "--seed", "1", "--no-color"),
            # A schema cannot express that one of two fields suffices, or that 1.0 is not an integer here.
            *("--exclude-checks", "positive_data_acceptance"),
            *("--exclude-operation-id", "addModel"),  # the servers of generated models do not exist: calls return 502
            *("--request-timeout", "10", "--suppress-health-check", "all", "--continue-on-failure"),
            cwd=tmp_path,
            env=clean_environment(SCHEMATHESIS_HOOKS=str(HOOKS)),
            stdout=PIPE,
            stderr=STDOUT,
        )
        output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
