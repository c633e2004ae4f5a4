"""The commands of flows, on a whole Penstock."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from penstock.client import Client
from tests.support.callbacks import receiver
from tests.support.command_line import CommandResult, run_command, run_on_terminal
from tests.support.serve import serving
from tests.support.waiting import until

ASKING = '''
from penstock.flows import flow, run

@flow(name="double", version="1")
async def double(number: int) -> int:
    """Doubles."""
    return await run.side_effect(lambda: 2 * number)

@flow(name="asking", version="1")
async def asking(number: int) -> str:
    """Doubles a number, then asks."""
    doubled = await run.call(double, {"number": number})
    answer = await run.wait_signal("answer")
    if answer == "no":
        raise ValueError("the answer was no")
    return f"{doubled} {answer}"
'''


@pytest.mark.usefixtures("prepared_data")
async def test_a_flow_from_its_skeleton_to_its_tree(tmp_path: Path) -> None:
    folder = tmp_path / "flows"
    assert "created" in (await run_command(tmp_path, "flow", "new", "greeting", "--folder", str(folder))).out
    (folder / "asking.py").write_text(ASKING)
    loopback = {"PENSTOCK_FETCH_NETWORKS": "127.0.0.0/8"}
    async with serving(tmp_path, PENSTOCK_FLOWS_DIR=str(folder), **loopback) as served, receiver() as hook:
        url = f"http://127.0.0.1:{served.port}"

        async def flow(*arguments: str) -> CommandResult:
            return await run_command(tmp_path, "flow", *arguments, PENSTOCK_URL=url)

        async def see(*arguments: str) -> str:
            return await run_on_terminal(tmp_path, "flow", *arguments, PENSTOCK_URL=url)

        async with Client(url) as client:

            async def published() -> bool:
                names = {one["name"] for one in (await client.flows())["flows"]}
                return {"greeting", "asking", "double"} <= names

            async def asks(run_id: str) -> bool:
                tree = await client.run_tree(run_id)
                return any(step["kind"] == "signal" for step in tree["steps"])

            await until(published, "the flows are published")
            assert "Doubles a number, then asks." in await see("list", "--flows")

            started = ("run", "greeting", "--input", '{"name": "Ada"}', "--callback", hook.url, "--watch")
            greeted = (await flow(*started)).json
            assert (greeted["status"], greeted["result"]["greeting"]) == ("completed", "Hello, Ada!")
            (message,) = await hook.got(1)
            assert (message.event["type"], message.event["subject"]) == ("job.completed", greeted["id"])
            assert message.event["data"]["result"] == greeted["result"]

            run_id = (await flow("run", "asking", "--input", '{"number": 21}')).json["id"]
            await until(lambda: asks(run_id), "it asks")
            signalled_at = datetime.now(UTC).isoformat()
            assert (await flow("signal", run_id, "answer", "--payload", '"yes"')).json["repeated"] is False
            assert (await flow("show", run_id, "--watch")).json["result"] == "42 yes"
            tree = await see("show", run_id)
            for part in (
                "asking@1  completed",
                "0 double#1  completed",
                "0 <lambda>#1  completed",
                "1 answer#1  completed",
            ):
                assert part in tree, tree
            run = (await client.run_tree(run_id))["run"]
            assert run["started_at"] < signalled_at < run["finished_at"]
            assert [run["id"] for run in (await flow("list", "--flow", "asking@1")).json] == [run_id]

            refused = await flow("signal", run_id, "answer")
            assert (refused.status, "ended" in refused.err) == (1, True), refused.err
            wrong = await flow("run", "asking", "--input", '{"nmber": 1}')
            assert (wrong.status, "input.number" in wrong.err) == (1, True), wrong.err

            again = (await flow("rerun", run_id, "--from", "1")).json["id"]
            assert (await client.wait(again)).result == "42 yes"  # the rerun gets the signals that the run received
            steps = (await client.run_tree(again))["steps"]
            assert steps[0]["job_id"] == (await client.run_tree(run_id))["steps"][0]["job_id"]  # it did not run again
            refused = await flow("retry", again)
            assert (refused.status, "failed" in refused.err) == (1, True), refused.err

            stopped = (await flow("run", "asking", "--input", '{"number": 1}')).json["id"]
            await until(lambda: asks(stopped), "it asks")
            await flow("cancel", stopped)
            assert (await flow("show", stopped, "--watch")).json["run"]["status"] == "cancelled"


@pytest.mark.usefixtures("prepared_data")
async def test_changed_code_is_checked_and_a_run_is_moved_to_another_version(tmp_path: Path) -> None:
    folder, other = tmp_path / "flows", tmp_path / "other"
    for one in (folder, other):
        one.mkdir()
        (one / "asking.py").write_text(ASKING)
    async with serving(tmp_path, PENSTOCK_FLOWS_DIR=str(folder)) as served:
        url = f"http://127.0.0.1:{served.port}"

        async def flow(*arguments: str) -> CommandResult:
            return await run_command(tmp_path, "flow", *arguments, PENSTOCK_URL=url)

        async with Client(url) as client:

            async def alive(version: str) -> bool:
                flows = (await client.flows())["flows"]
                return any((one["name"], one["version"], one["alive"]) == ("asking", version, True) for one in flows)

            async def asks(run_id: str) -> bool:
                tree = await client.run_tree(run_id)
                return any(step["kind"] == "signal" for step in tree["steps"]) and tree["run"]["status"] == "waiting"

            await until(lambda: alive("1"), "version 1 is published")
            run_id = str((await client.start_flow("asking", {"number": 21})).id)
            await until(lambda: asks(run_id), "it asks")

            same = await flow("check", "--folder", str(other))
            assert [one["problem"] for one in same.json] == ["", ""]  # the run, and that of its child flow
            (other / "asking.py").write_text(ASKING.replace('wait_signal("answer")', 'wait_signal("reply")'))
            changed = await flow("check", run_id, "--folder", str(other))
            assert changed.status == 1
            (one,) = json.loads(changed.out)
            assert one["problem"].startswith("changed")
            assert "answer#1" in one["problem"]

            (folder / "asking.py").write_text(
                ASKING.replace('name="asking", version="1"', 'name="asking", version="2"')
            )
            await until(lambda: alive("2"), "version 2 is published")
            await client.signal_run(run_id, "answer", "late")
            refused = await flow("move", run_id, "--to", "3", "--folder", str(folder))
            assert refused.status == 1
            moved = (await flow("move", run_id, "--to", "2", "--folder", str(folder))).json
            assert moved["model_profile"] == "asking@2"
            ended = await client.wait(run_id)
            assert (ended.result, ended.model_profile) == ("42 late", "asking@2")
