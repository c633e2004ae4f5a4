"""The commands of apps that need no gateway."""

from __future__ import annotations

import json
from pathlib import Path

from tests.support.command_line import run_command, run_on_terminal


async def test_a_new_app_has_no_mistakes(tmp_path: Path) -> None:
    created = (await run_command(tmp_path, "app", "new", "my-app", "--folder", "apps")).out
    assert "created apps/my-app/app.toml" in created
    assert json.loads((await run_command(tmp_path, "app", "check", "apps/my-app")).out) == {
        "apps": ["my-app"],
        "problems": [],
    }
    shown = await run_on_terminal(tmp_path, "app", "check", PENSTOCK_APPS_DIR=str(tmp_path / "apps"))
    assert "no mistakes in my-app" in shown
    again = await run_command(tmp_path, "app", "new", "my-app", "--folder", "apps")
    assert again.status == 1
    assert "apps/my-app exists already" in again.err


async def test_check_lists_every_mistake_in_all_files(tmp_path: Path) -> None:
    await run_command(tmp_path, "app", "new", "one", "--folder", "apps")
    await run_command(tmp_path, "app", "new", "two", "--folder", "apps")
    one = tmp_path / "apps" / "one"
    text = (one / "app.toml").read_text()
    service = '[[services]]\nname = "s"\nmodel = "one-shortner"\nport = 8081\n'
    (one / "app.toml").write_text('flow = "on"\n' + text + service)
    (one / "more.py").write_text("import nothing_like_this\n")
    (one / "models" / "one-shortener" / "model.toml").write_text('runtime = "pithon"\n')
    checked = await run_command(tmp_path, "app", "check", "apps/one")
    assert checked.status == 1
    problems = {(one["file"], one["key"]): one["detail"] for one in json.loads(checked.out)["problems"]}
    assert problems["one/app.toml", "flow"] == "names the flow on, which no file has; there are: one@1, two@1"
    assert "no app has" in problems["one/app.toml", "services[0].model"]
    assert "nothing_like_this" in problems["one/more.py", ""]
    assert "did you mean python?" in problems["one/models/one-shortener/model.toml", ""]
    assert len(problems) == 4


async def test_check_needs_a_folder_with_apps(tmp_path: Path) -> None:
    assert "PENSTOCK_APPS_DIR" in (await run_command(tmp_path, "app", "check")).err
    assert (await run_command(tmp_path, "app", "check", str(tmp_path))).status == 1
