"""``penstock athena key``, against a running gateway."""

from __future__ import annotations

from pathlib import Path

from penstock.masking import Secret
from tests.support.command_line import run_command, run_on_terminal
from tests.support.gateways import running_gateway


async def test_credentials_are_created_listed_and_revoked(database_url: str, tmp_path: Path) -> None:
    async with running_gateway(database_url, ai_service_token=Secret("operators-token")) as caller:
        variables = {"PENSTOCK_URL": caller.address, "AI_SERVICE_TOKEN": "operators-token"}
        command = ("athena", "key", "create", "scanner app", "--app-id", "scanner", "--services", "ocr, asr")
        created = await run_command(tmp_path, *command, "--expires", "90d", "--json", **variables)
        made = created.json
        assert (made["app_id"], made["services"]) == ("scanner", ["ocr", "asr"])
        assert "shown only now" in created.err
        shown = await run_on_terminal(tmp_path, "athena", "key", "list", **variables)
        assert made["api_key"] in shown
        assert "ocr, asr" in shown
        assert made["api_secret"] not in shown
        revoked = await run_on_terminal(tmp_path, "athena", "key", "revoke", made["id"], **variables)
        assert "revoked" in revoked
        refused = await run_command(tmp_path, "athena", "key", "revoke", "nonesuch0000", **variables)
        assert refused.status == 1
        assert "no Athena credentials" in refused.err
        wrong = await run_command(tmp_path, "athena", "key", "create", "x", "--app-id", "a b", **variables)
        assert wrong.status == 1
        assert "app_id" in wrong.err
