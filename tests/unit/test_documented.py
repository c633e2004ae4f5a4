"""The names in the documents exist: commands with their options, HTTP paths, and calls of the client."""

from __future__ import annotations

import inspect
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

from penstock import BlockingClient, Client
from penstock.assembly.gateway import GatewayAssembly
from penstock.cli.main import app
from penstock.masking import Secret
from penstock.settings import load_settings

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "docs" / "athena").glob("*.md"))]
CODE = re.compile(r"```\w*\n(.*?)```|(?<!`)`([^`\n]+)`", re.DOTALL)
COMMAND = re.compile(r"(?:^|^\$ |\| |&& |\$\()(?:\.venv/bin/)?penstock ([a-z]+(?: [^\n|&;#)`]*)?)", re.MULTILINE)
HTTP_PATH = re.compile(r"(?:\b(GET|POST|PUT|DELETE) )?(?:\$api|(?<![\w.$])/api/v1)((?:/[\w{}$.:…-]+)+)")


def code_of(page: Path) -> list[str]:
    """Return the blocks and the inline pieces of code on a page, with continued lines joined."""
    return [(block or piece).replace("\\\n", " ") for block, piece in CODE.findall(page.read_text())]


def commands_of(page: Path) -> list[str]:
    return [found.strip() for text in code_of(page) for found in COMMAND.findall(text)]


def named_command(words: list[str]) -> tuple[Any, list[str]]:
    """Return the command that the words name, and the words after it."""
    command: Any = typer.main.get_command(app)
    while hasattr(command, "commands") and words and not words[0].startswith("-"):
        if words[0] in {"…", "*"}:
            break
        assert words[0] in command.commands, f"there is no command {words[0]!r}: there are {sorted(command.commands)}"
        command, words = command.commands[words[0]], words[1:]
    return command, words


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_and_option_exists(page: Path) -> None:
    for text in commands_of(page):
        command, rest = named_command(re.sub(r"'[^']*'|\"[^\"]*\"", "", text).split())
        options = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
        if command.context_settings.get("ignore_unknown_options"):
            continue
        for word in rest:
            name = word.partition("=")[0].rstrip(".,:;")
            if re.fullmatch(r"-[a-z]|--[a-z-]+", name):
                assert name in options | {"--help", "-h", "--version"}, f"penstock {text}: there is no option {name}"


@pytest.fixture(scope="module")
async def routes() -> AsyncIterator[list[tuple[str, re.Pattern[str]]]]:
    """The method and path of every route of a gateway; no database is needed."""
    parts = GatewayAssembly(load_settings(None).replace(database_url=Secret("postgresql://nobody@127.0.0.1:1/none")))
    try:
        yield [
            (getattr(route, "method", "GET"), re.compile(re.sub(r"\{[^}]+\}", "[^/]+", route.path)))
            for route in parts.gateway.routes
        ]
    finally:
        await parts.close()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_path_exists(page: Path, routes: list[tuple[str, re.Pattern[str]]]) -> None:
    for text in code_of(page):
        for method, rest in HTTP_PATH.findall(text):
            path = "/api/v1" + re.sub(r"[.:…]+$", "", rest)
            if path.endswith("/") or "…" in path:
                continue
            methods = {one for one, pattern in routes if pattern.fullmatch(path)}
            assert methods, f"{page.name}: there is nothing at {path}"
            assert not method or method in methods, f"{page.name}: {path} has {sorted(methods)}, not {method}"


def test_the_tutorials_name_existing_files() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    walks = page[page.index("## Three walks") : page.index("## Where to begin")]
    names = re.findall(r"`([\w/]+\.(?:py|sql))`", walks)
    assert len(names) > 30
    for name in names:
        assert list((ROOT / "src" / "penstock").rglob(name)), name


def test_the_client_page_has_an_example_of_each_call() -> None:
    examples = "\n".join(re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "client.md").read_text(), re.DOTALL))
    calls = {name for name, _ in inspect.getmembers(Client, inspect.isfunction) if not name.startswith("_")}
    missing = {name for name in calls - {"close"} if f"client.{name}(" not in examples}
    assert missing <= {"follow_model_logs"}, "it never ends, so the page only names it"
    assert "follow_model_logs" in (ROOT / "docs" / "client.md").read_text()
    assert {name for name in calls if not hasattr(BlockingClient, name)} <= {"work", "download_pieces", "stream_json"}
