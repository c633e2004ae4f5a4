"""Usage over HTTP: exact sums by any dimension, of one's own tenant."""

from __future__ import annotations

import csv
import io
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from penstock.masking import Secret
from penstock.postgres.pool import Database
from penstock.usage.duties import UsageRetention
from penstock.usage.sql import rollup
from tests.support.command_line import run_command, run_on_terminal
from tests.support.databases import execute, open_database, query
from tests.support.gateways import HttpCaller, running_gateway
from tests.support.waiting import until

TOKEN = "operator-token-operator-token"
PRICES = """
currency = "EUR"
[[prices]]
provider = "far"
per_million_prompt_tokens = 2.5
[[prices]]
model = "echo"
per_call = 0.000000000003
"""
ECHO = """
class Model:
    def predict(self, text: str) -> str:
        if text == "bad":
            raise ValueError("bad")
        return text
"""


@pytest.fixture
async def caller(database_url: str, tmp_path: Path) -> AsyncIterator[HttpCaller]:
    folder = tmp_path / "models" / "echo"
    folder.mkdir(parents=True)
    (folder / "model.toml").write_text(
        'name = "echo"\nruntime = "python"\nversion = "2"\n[python]\nclass = "model:Model"\n'
    )
    (folder / "model.py").write_text(ECHO)
    prices = tmp_path / "prices.toml"
    prices.write_text(PRICES)
    async with running_gateway(
        database_url,
        models_folder=tmp_path / "models",
        penstock_prices=prices,
        penstock_usage_spool=tmp_path / "spool",
        ai_service_token=Secret(TOKEN),
    ) as caller:
        yield caller


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    async with open_database(database_url) as database:
        yield database


async def _usage(caller: HttpCaller, wanted: str = "", **headers: str) -> dict[str, Any]:
    reply = await caller.call("GET", f"/usage?{wanted}", headers=headers)
    assert reply.status == 200, reply.body
    found: dict[str, Any] = reply.json
    return found


async def _roll_up(database: Database) -> None:
    async with database.acquire() as connection:
        while await rollup.roll_up(connection):
            pass


async def _flushed(caller: HttpCaller) -> None:
    await until(lambda: caller.parts.usage.unflushed == 0, "live calls were flushed")


async def test_attempts_and_live_calls_are_summed_up_before_and_after_the_roll_up(
    caller: HttpCaller, database: Database
) -> None:
    job = await caller.running(user_id="ada", input={"n": 1})
    calls = [
        {"provider": "far", "model": "m", "prompt_tokens": 4000, "completion_tokens": 7, "audio_seconds": 1.5},
        {"provider": "unknown", "model": "n", "status": "failed", "duration_ms": 30},
    ]
    await caller.post(f"/jobs/{job['id']}/complete", {"epoch": job["epoch"], "result": [1, 2], "usage": calls})
    for text in ("one", "two", "bad"):
        await caller.call("POST", "/models/echo/predict", {"text": text}, headers={"Penstock-User": "grace"})
    await _flushed(caller)
    before = await _usage(caller, "by=provider,model,version,user&time_zone=Europe/Berlin")
    await _roll_up(database)
    after = await _usage(caller, "by=provider,model,version,user&time_zone=Europe/Berlin")
    assert after == before
    groups = {(group["provider"], group["model"], group["user"]): group for group in after["groups"]}
    assert groups["far", "m", "ada"]["cost"] == "0.01"
    assert groups["far", "m", "ada"]["audio_seconds"] == 1.5
    assert groups["unknown", "n", "ada"]["failures"] == groups["unknown", "n", "ada"]["unpriced"] == 1
    attempt = groups["", "", "ada"]
    assert (attempt["attempts"], attempt["calls"], attempt["bytes_in"], attempt["bytes_out"]) == (1, 0, 7, 5)
    echo = groups["", "echo", "grace"]
    assert (echo["version"], echo["calls"], echo["failures"], echo["attempts"]) == ("2", 3, 1, 0)
    assert echo["cost"] == "0.000000000006"
    assert echo["model_seconds"] > 0
    assert echo["bytes_in"] == sum(len(f'{{"text":"{text}"}}') for text in ("one", "two", "bad"))
    assert echo["bytes_out"] == len('"one""two"')
    assert after["totals"]["calls"] == 5
    assert (after["time_zone"], after["currency"], after["truncated"]) == ("Europe/Berlin", "EUR", False)


async def test_a_job_without_reported_calls_is_one_call_and_a_lost_one_is_unreported(caller: HttpCaller) -> None:
    await caller.finished()
    failing = await caller.running()
    await caller.post(f"/jobs/{failing['id']}/fail", {"epoch": failing["epoch"], "category": "bad_input"})
    taken = await caller.running()
    await caller.post(f"/jobs/{taken['id']}/retry", {})
    totals = (await _usage(caller))["totals"]
    assert (totals["attempts"], totals["calls"], totals["failures"], totals["unreported"]) == (3, 2, 1, 1)


async def test_a_call_of_a_worker_for_a_job_is_left_to_its_attempt(caller: HttpCaller) -> None:
    await caller.call("POST", "/models/echo/predict", {"text": "x"}, headers={"Penstock-Usage": "job"})
    await caller.call("POST", "/models/echo/predict", {"text": "x"})
    await _flushed(caller)
    assert (await _usage(caller))["totals"]["calls"] == 1


async def test_a_tenant_cannot_keep_its_calls_out_of_the_ledger(caller: HttpCaller) -> None:
    scopes = ["models:call", "jobs:work"]
    reply = await caller.call("POST", "/keys", {"name": "k", "scopes": scopes})
    headers = {"Authorization": f"Bearer {reply.json['key']}", "Penstock-Usage": "job"}
    assert (await caller.call("POST", "/models/echo/predict", {"text": "x"}, headers=headers)).status == 200
    await _flushed(caller)
    assert (await _usage(caller))["totals"]["calls"] == 1


async def test_a_tenant_sees_its_own_usage_and_an_operator_all(caller: HttpCaller, database: Database) -> None:
    await caller.finished()
    reply = await caller.call("POST", "/tenants", {"name": "acme"})
    assert reply.status in {200, 201}, reply.body
    scopes = ["usage:read", "jobs:submit", "jobs:work"]
    reply = await caller.call("POST", "/keys", {"name": "k", "scopes": scopes}, headers={"Penstock-Tenant": "acme"})
    key = {"Authorization": f"Bearer {reply.json['key']}"}
    for rolled_up in (False, True):
        assert (await _usage(caller, **key))["totals"]["attempts"] == 0
        assert (await _usage(caller, "by=model,user,queue,price", **key))["groups"] == []
        for wanted in ("by=tenant", "tenant=default", "by=day,tenant&tenant=acme"):
            refused = await caller.call("GET", f"/usage?{wanted}", headers=key)
            assert refused.outcome == (403, "scope_missing")
        everything = await _usage(caller, "by=tenant,queue")
        assert [(one["tenant"], one["task_type"], one["attempts"]) for one in everything["groups"]] == [
            ("default", everything["groups"][0]["task_type"], 1)
        ]
        assert (await _usage(caller, "tenant=acme"))["totals"]["attempts"] == 0
        if not rolled_up:
            await _roll_up(database)


async def test_filters_select_and_groups_are_capped(caller: HttpCaller, database: Database) -> None:
    for number in range(5):
        await caller.finished(user_id=f"user {number}")
    await _roll_up(database)
    await caller.finished(user_id="user 0")
    some = await _usage(caller, "by=user&user=user%200&user=user%203&user=nobody")
    assert [(one["user"], one["attempts"]) for one in some["groups"]] == [("user 0", 2), ("user 3", 1)]
    capped = await _usage(caller, "by=user&limit=2")
    assert (len(capped["groups"]), capped["truncated"], capped["totals"]["attempts"]) == (2, True, 6)
    by_day = await _usage(caller, "by=day,owner_service")
    assert [one["day"] for one in by_day["groups"]] == [datetime.now(UTC).date().isoformat()]


async def test_csv_is_for_spreadsheets_and_no_name_becomes_a_formula(caller: HttpCaller) -> None:
    await caller.finished(user_id='=HYPERLINK("http://x","y")')
    by_format = await caller.call("GET", "/usage?by=user&format=csv")
    by_accept = await caller.call("GET", "/usage?by=user", headers={"Accept": "text/csv"})
    assert by_format.body == by_accept.body
    assert by_format.headers["Content-Type"].startswith("text/csv")
    head, row = csv.reader(io.StringIO(by_format.body.decode()))
    assert head[0] == "user"
    assert row[0] == '\'=HYPERLINK("http://x","y")'
    assert dict(zip(head, row, strict=True))["attempts"] == "1"


@pytest.mark.parametrize(
    ("wanted", "field"),
    [
        ("by=modl", "by"),
        ("by=day,hour", "by"),
        ("from=yesterday", "from"),
        ("from=2026-13-01", "from"),
        ("to=0001-01-01", "to"),
        ("from=2026-01-01T00:30:00Z", "from"),
        ("from=2026-01-02&to=2026-01-01", "to"),
        ("from=2000-01-01&by=day", "by"),
        ("time_zone=../../etc/passwd", "time_zone"),
        ("time_zone=Asia/Kolkata&by=day", "time_zone"),
        ("time_zone=%00", "time_zone"),
        ("limit=0", "limit"),
        ("limit=%C2%B2", "limit"),
        ("format=xml", "format"),
        ("nonsense=1", "nonsense"),
    ],
)
async def test_bad_queries_name_their_parameter(caller: HttpCaller, wanted: str, field: str) -> None:
    reply = await caller.call("GET", f"/usage?{wanted}")
    assert (reply.status, reply.fields) == (422, [field]), reply.body


async def test_late_usage_lands_in_its_hour(caller: HttpCaller, database: Database) -> None:
    await caller.finished()
    await _roll_up(database)
    late = datetime(2026, 1, 31, 23, 59, 59, tzinfo=UTC)
    await execute(
        database,
        "INSERT INTO usage_delta (tenant_id, at, series_id, submitter_id, attempts) VALUES (1, $1, 0, 0, 5)",
        late,
    )
    wanted = f"by=hour&from={quote('2026-01-31T22:00:00Z')}&to={quote('2026-02-01T02:00:00Z')}"
    before = await _usage(caller, wanted)
    await _roll_up(database)
    assert await _usage(caller, wanted) == before
    assert [(one["hour"], one["attempts"]) for one in before["groups"]] == [("2026-01-31T23:00:00+00:00", 5)]
    months = await _usage(caller, "by=month&from=2026-01-01&to=2026-03-01&time_zone=Europe/Berlin")
    assert [(one["month"], one["attempts"]) for one in months["groups"]] == [("2026-02", 5)]
    assert await query(database, "SELECT count(*) FROM usage_detail_default") == [(1,)], "no partition is that old"


async def test_days_of_a_tenant_whose_hours_are_not_those_of_utc_are_exact(
    caller: HttpCaller, database: Database
) -> None:
    """Midnight in India is at 18:30 UTC."""
    assert (await caller.post("/tenants", {"name": "tea", "time_zone": "Asia/Kolkata"})).status == 201
    ((tenant,),) = await query(database, "SELECT id FROM tenant WHERE name = 'tea'")
    for moment, attempts in (("18:29:59", 1), ("18:30:00", 2), ("18:59:59", 4), ("19:00:00", 8)):
        await execute(
            database,
            "INSERT INTO usage_delta (tenant_id, at, series_id, submitter_id, attempts)"
            " VALUES ($1, ('2026-01-30 ' || $2::text)::timestamptz, 0, 0, $3)",
            tenant,
            moment,
            attempts,
        )
    wanted = "from=2026-01-30&to=2026-02-01&time_zone=Asia/Kolkata&by="
    for _ in range(2):  # before and after the roll-up
        days = (await _usage(caller, wanted + "day", **{"Penstock-Tenant": "tea"}))["groups"]
        assert [(one["day"], one["attempts"]) for one in days] == [("2026-01-30", 1), ("2026-01-31", 14)]
        hours = (await _usage(caller, wanted + "hour", **{"Penstock-Tenant": "tea"}))["groups"]
        assert [(one["hour"], one["attempts"]) for one in hours] == [
            ("2026-01-30T23:00:00+05:30", 1),
            ("2026-01-31T00:00:00+05:30", 14),
        ]
        await _roll_up(database)
    refused = await caller.get("/usage?time_zone=Asia/Kolkata&by=tenant,day")
    assert (refused.status, refused.fields) == (422, ["time_zone"]), "the other tenant has hours only"
    assert (await _usage(caller, "from=2026-01-30&to=2026-02-01", **{"Penstock-Tenant": "tea"}))["totals"][
        "attempts"
    ] == 15


async def test_detail_is_dropped_by_day_and_sums_stay(caller: HttpCaller, database: Database) -> None:
    await caller.finished()
    await _roll_up(database)
    await execute(
        database,
        "CREATE OR REPLACE FUNCTION clock() RETURNS timestamptz LANGUAGE sql STABLE PARALLEL SAFE"
        " RETURN now() + interval '40 days'",
    )
    await UsageRetention(database, timedelta(days=30)).once()
    assert await query(database, "SELECT count(*) FROM usage_detail") == [(0,)]
    assert (await _usage(caller))["totals"]["attempts"] == 1


async def test_sums_of_users_are_dropped_after_years_and_those_without_them_stay(
    caller: HttpCaller, database: Database
) -> None:
    for user in ("ada", "eve"):
        await caller.finished(user_id=user)
    await _roll_up(database)
    await execute(
        database,
        "CREATE OR REPLACE FUNCTION clock() RETURNS timestamptz LANGUAGE sql STABLE PARALLEL SAFE"
        " RETURN now() + interval '900 days'",
    )
    await caller.finished(user_id="eve")
    await _roll_up(database)
    every = "from=2020-01-01&to=2100-01-01"
    users = await _usage(caller, f"{every}&by=user")
    assert {one["user"]: one["attempts"] for one in users["groups"]} == {"ada": 1, "eve": 2}
    duty = UsageRetention(database, timedelta(days=30), keep_users=timedelta(days=800))
    while await duty.once():
        pass
    users = await _usage(caller, f"{every}&by=user")
    assert {one["user"]: one["attempts"] for one in users["groups"]} == {"eve": 1}
    assert (await _usage(caller, every))["totals"]["attempts"] == 3
    assert await query(database, "SELECT DISTINCT user_id FROM usage_dims WHERE NOT broad") == [("eve",)]
    unused = "SELECT count(*) FROM usage_sum s WHERE NOT EXISTS (SELECT FROM usage_dims d WHERE d.id = s.dims_id)"
    assert await query(database, unused) == [(0,)]


async def test_the_command_shows_a_table_with_bars_and_writes_csv_and_json(caller: HttpCaller, tmp_path: Path) -> None:
    for number in range(4):
        await caller.finished(user_id="ada" if number else "grace\x9bm")
    environment = {"PENSTOCK_URL": caller.address, "AI_SERVICE_TOKEN": TOKEN}
    shown = await run_on_terminal(tmp_path, "usage", "--by", "user", **environment)
    assert "ada" in shown
    assert "\x9b" not in shown, "a name cannot control the terminal"
    bars = {line.split()[0]: line.count("█") for line in shown.splitlines() if "█" in line}
    assert bars["ada"] == 30 > max(length for name, length in bars.items() if name != "ada") == 10
    assert "In all: 4 attempts, 4 calls" in shown
    as_json = await run_command(tmp_path, "usage", "--user", "ada", "--by", "", **environment)
    assert as_json.json["totals"]["attempts"] == 3
    as_csv = await run_command(tmp_path, "usage", "--csv", "--by", "user", "--user", "ada", **environment)
    assert as_csv.out.splitlines()[1].startswith("ada,3,3,")
    wrong = await run_command(tmp_path, "usage", "--by", "modl", **environment)
    assert wrong.status == 1
    assert "did you mean model?" in wrong.err


async def test_jobs_carry_their_user_and_key_and_are_listed_by_either(caller: HttpCaller) -> None:
    reply = await caller.call("POST", "/keys", {"name": "k", "scopes": ["jobs:submit", "jobs:read"]})
    key = {"Authorization": f"Bearer {reply.json['key']}"}
    job = {"owner_service": "tests", "task_type": "echo", "model_profile": "small"}
    own = await caller.call("POST", "/jobs", job | {"user_id": "ada"}, headers={**key, "Penstock-User": "grace"})
    by_header = await caller.call("POST", "/jobs", job, headers={**key, "Penstock-User": "grace"})
    await caller.call("POST", "/jobs", job)
    assert (own.json["user_id"], by_header.json["user_id"]) == ("ada", "grace"), "what a submission names comes first"
    key_id = (await caller.call("GET", f"/jobs/{own.json['id']}")).json["key_id"]
    assert key_id
    assert key_id in reply.json["key"]
    for wanted, expected in {"user_id=grace": [by_header], f"key_id={key_id}": [by_header, own]}.items():
        page = await caller.call("GET", f"/jobs?{wanted}")
        assert [one["id"] for one in page.json["jobs"]] == [one.json["id"] for one in expected]
