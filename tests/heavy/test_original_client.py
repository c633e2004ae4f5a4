"""Requests that the original's own client signs are accepted: its code runs in an environment of its own."""

from __future__ import annotations

import asyncio
from pathlib import Path

from penstock.masking import Secret
from penstock.models import manifest
from tests.athena.test_webgate import OCR, envelope, new_credential
from tests.support.engines import put_engine
from tests.support.gateways import running_gateway
from tests.support.models import model_host

FOLDER = Path(__file__).parent / "aiges"
SIGN = """
import sys
from aiges.client.utils.ne_utils import build_auth_request_url
url, method, api_key, api_secret = sys.argv[1:]
print(build_auth_request_url(url, method, api_key, api_secret))
"""


async def test_requests_signed_by_the_originals_client_are_accepted(module_database_url: str, tmp_path: Path) -> None:
    async with model_host(tmp_path) as models:
        python = await models.call(await models.host.add(manifest.read(FOLDER / "model.toml")), {})
    put_engine(tmp_path)
    async with running_gateway(
        module_database_url, models_folder=tmp_path, ai_service_token=Secret("operators-token")
    ) as caller:
        made = await new_credential(caller)
        for secret, status in ((made["api_secret"], 200), ("0" * 32, 401)):
            url = await signed(python, caller.address + OCR, made["api_key"], secret)
            async with caller.session.post(url, json=envelope(), headers={"Authorization": ""}) as response:
                assert response.status == status, await response.read()


async def signed(python: str, url: str, api_key: str, api_secret: str) -> str:
    process = await asyncio.create_subprocess_exec(
        python, "-c", SIGN, url, "POST", api_key, api_secret, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    return out.decode().strip().splitlines()[-1]
