"""Loading the folder of flows: each file by itself, and what flow code must not do."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from penstock.flows.kernel.records import Held
from penstock.flows.process.program import Limits
from tests.flows.conftest import Start, Write
from tests.support.flow_stores import result
from tests.support.waiting import until

HEAD = "from penstock.flows import flow, run\n"
GOOD = HEAD + '@flow(name="{0}", version="1")\nasync def good() -> str:\n    return "{0}"\n'


async def test_a_folder_that_does_not_exist_has_no_flows(start: Start) -> None:
    process = await start()
    assert (process.flows, process.problems) == ({}, {})


async def test_files_packages_and_shared_modules(start: Start, write: Write) -> None:
    write("one.py", GOOD.format("one"))
    write("many.py", GOOD.format("two") + GOOD.format("three").replace(HEAD, ""))
    write("package/__init__.py", HEAD + "from package.inner import text\nfrom _shared import more\n"
          '@flow(name="package", version="2")\nasync def f() -> str:\n    return text + more\n')  # fmt: skip
    write("package/inner.py", 'text = "inner"\n')
    write("_shared.py", 'more = " shared"\n')
    write("test_one.py", "raise SystemExit\n")
    write(".hidden.py", "raise SystemExit\n")
    process = await start()
    assert process.problems == {}
    assert process.flows.keys() == {("one", "1"), ("two", "1"), ("three", "1"), ("package", "2")}
    assert await result(process, "package", version="2") == "inner shared"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("def x(:", "line 1: invalid syntax"),
        ("\nraise LookupError('at import')", "line 2: LookupError: at import"),
        ("raise SystemExit(3)", "line 1: SystemExit: 3"),
        ("import missing_module", "line 1: ModuleNotFoundError: No module named 'missing_module'"),
        (
            HEAD + '@flow(name="a b", version="")\ndef f(x, *y): ...',
            ("a b is not a flow:\n- it must be a plain `async def`\n"
            "- name must be 1 to 100 letters, digits, '.', '_' and '-', not 'a b'\n"
            "- version must be 1 to 100 letters, digits, '.', '_' and '-', not ''\n"
            "- parameter x of f has no annotation: it becomes the input's JSON Schema\n"
            "- f takes *y: every input must be a parameter with a name"),
        ),
        (
            HEAD + '@flow(name="a", version="1", examples=[{"x": "y"}])\nasync def f(x: int) -> None: ...',
            "a is not a flow:\n- examples[0]: x: must be a valid integer, unable to parse string as an integer",
        ),
        (GOOD.format("good"), "flow good version 1 is also defined in good.py, which is used"),
        ("import os\nos._exit(3)", "it cannot be loaded: its process ended: exit status 3"),
        ("while True: pass", "it cannot be loaded: it takes longer than 1 s"),
    ],
)  # fmt: skip
async def test_a_bad_file_has_a_clear_error_and_affects_no_other(
    start: Start, write: Write, text: str, problem: str
) -> None:
    write("good.py", GOOD.format("good"))
    write("wrong.py", text)
    process = await start(limits=Limits(load_within=timedelta(seconds=1)))
    assert process.problems == {"wrong.py": problem}
    assert await result(process, "good") == "good"


@pytest.mark.parametrize("name", ["json", "pydantic", "penstock", "not-a-name"])
async def test_a_file_cannot_take_the_name_of_another_module(start: Start, write: Write, name: str) -> None:
    write(f"{name}.py", GOOD.format("good"))
    process = await start()
    assert process.flows == {}
    (problem,) = process.problems.values()
    assert "rename the file" in problem or "cannot be the name of a module" in problem


APP = """
import json
from penstock.flows import flow
from . import words
from .pack.inner import more
from .words import text

@flow(name="{0}", version="1")
async def f() -> str:
    from ._late import late
    return json.dumps([words.text, text, more, late])
"""


async def test_files_of_apps_import_each_other_and_do_not_meet_those_of_other_apps(start: Start, write: Write) -> None:
    for app in ("one", "two-2"):
        files = {
            "app.toml": "",
            "main.py": APP.format(app),
            "words.py": f'text = "{app}"\n',
            "_late.py": "from . import words\nlate = words.text\n",
            "pack/__init__.py": "",
            "pack/inner.py": "from ..words import text as more\n",
            "models/m/model.py": "raise SystemExit\n",
            "test_main.py": "raise SystemExit\n",
        }
        for file, text in files.items():
            write(f"../apps/{app}/{file}", text)
    write("words.py", 'text = "flows"\n')
    write("plain.py", "from words import text\n" + GOOD.format("plain").replace('return "plain"', "return text"))
    write("../apps/no-app/flow.py", "raise SystemExit\n")
    process = await start()
    assert process.problems == {}
    assert await result(process, "one") == '["one", "one", "one", "one"]'
    assert await result(process, "two-2") == '["two-2", "two-2", "two-2", "two-2"]'
    assert await result(process, "plain") == "flows"


async def test_a_bad_file_of_an_app_affects_no_other(start: Start, write: Write) -> None:
    for app in ("good", "bad"):
        write(f"../apps/{app}/app.toml", "")
    write("../apps/good/flow.py", GOOD.format("good"))
    write("../apps/bad/flow.py", "import os\nos._exit(3)")
    write("../apps/bad/other.py", "import words")
    write("../apps/bad/third.py", "import flow")
    process = await start()
    assert process.problems == {
        "bad/flow.py": "it cannot be loaded: its process ended: exit status 3",
        "bad/other.py": "line 1: ModuleNotFoundError: No module named 'words'",
        "bad/third.py": "line 1: ModuleNotFoundError: No module named 'flow': import files of the same app relatively, "
        "as in `from .flow import …` or `from . import flow`",
    }
    assert await result(process, "good") == "good"


# What flow code must not do


async def test_what_the_body_of_a_flow_must_not_call_is_found_at_load(start: Start, write: Write) -> None:
    write(
        "wrong.py",
        """
import time, uuid as ids
from datetime import datetime as dt
from time import sleep as pause
from penstock.flows import flow, run

@flow(name="wrong", version="1")
async def wrong() -> None:
    time.sleep(1)
    if dt.now():
        pause(1)
    open("x")
    await run.side_effect(lambda: time.time())
    ids.uuid4()

def helper() -> float:
    return time.time()
""",
    )
    process = await start()
    assert process.problems == {
        "wrong.py": "line 9: time.sleep blocks all runs of the process: use await run.sleep(…)\n"
        "line 10: datetime.datetime.now returns a different time on each replay: use run.now()\n"
        "line 11: time.sleep blocks all runs of the process: use await run.sleep(…)\n"
        "line 12: builtins.open blocks all runs of the process: do it in an async function for run.side_effect, or as "
        "a job\n"
        "line 14: uuid.uuid4 returns something different on each replay: use run.uuid()"
    }


async def test_names_that_the_file_binds_itself_are_its_own(start: Start, write: Write) -> None:
    write(
        "own.py",
        """
import time
from penstock.flows import flow, run

class Clock:
    def time(self) -> int:
        return 5

def open(name: str) -> str:
    return name

async def reading(time: Clock) -> int:
    return time.time()

@flow(name="own", version="1")
async def own() -> str:
    return open("x") + str(await reading(Clock()))
""",
    )
    process = await start()
    assert process.problems == {}
    assert await result(process, "own") == "x5"


HELPERS = """
import datetime
import os
import random
import socket
import subprocess
import time
import traceback
from pathlib import Path
from uuid import uuid4

from penstock.flows import flow, run

STARTED = time.time()

def clock(): return time.time()
def date(): return datetime.datetime.now()
def chance(): return random.random()
def identity(): return uuid4()
def sleep(): getattr(time, "sleep")(0)
def read(): return Path(__file__).read_text()
def connect(): getattr(socket, "create_connection")(("127.0.0.1", 9), 1)
def program(): getattr(subprocess, "run")(["true"])
def harmless():
    try:
        raise ValueError
    except ValueError:
        traceback.format_exc()
    import colorsys
    return random.Random(5).random() + STARTED

@flow(name="helps", version="1")
async def helps(name: str, effect: bool) -> str:
    function = globals()[name]
    if effect:
        await run.side_effect(outside, function)
    else:
        function()
    return "done"

def outside(function):
    try:
        function()
    except OSError:
        pass
"""


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("clock", "helpers.py, line 16, in clock: time.time returns a different time on each replay: use run.now()"),
        ("date", "helpers.py, line 17, in date: datetime.datetime.now returns a different time on each replay"),
        ("chance", "helpers.py, line 18, in chance: random.random returns something different on each replay"),
        ("identity", "helpers.py, line 19, in identity: uuid.uuid4 returns something different on each replay"),
        ("sleep", "helpers.py, line 20, in sleep: time.sleep blocks all runs"),
        ("read", "helpers.py, line 21, in read: opening the file '/"),
        ("connect", "helpers.py, line 22, in connect: looking up a host blocks all runs"),
        ("program", "helpers.py, line 23, in program: starting a program blocks all runs"),
    ],
)
async def test_helpers_that_flow_code_calls_hold_the_run_and_name_the_line(
    start: Start, write: Write, name: str, message: str
) -> None:
    write("helpers.py", HELPERS)
    process = await start()
    held = await result(process, "helps", {"name": name, "effect": False})
    assert isinstance(held, Held)
    assert held.reason == "broken"
    assert message in held.message
    assert await result(process, "helps", {"name": name, "effect": True}) == "done"


async def test_what_is_harmless_is_allowed(start: Start, write: Write) -> None:
    write("helpers.py", HELPERS)
    process = await start()
    assert await result(process, "helps", {"name": "harmless", "effect": False}) == "done"


async def test_a_package_that_is_moved_into_the_folder_is_loaded(start: Start, write: Write, tmp_path: Path) -> None:
    write("one.py", GOOD.format("one"))
    process = await start(watched=True)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "__init__.py").write_text(GOOD.format("moved"))
    elsewhere.rename(tmp_path / "flows" / "package")
    await until(lambda: ("moved", "1") in process.flows, "the package is loaded")
