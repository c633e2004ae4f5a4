"""The subprocess runtime with programs that follow the protocol, and with programs that break it."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from textwrap import dedent
from typing import Any

import msgspec
import pytest

from penstock.errors import InvalidInput, ModelCrashed
from penstock.failures import CallFailed
from penstock.models import manifest
from penstock.models.replica.program import LONGEST_LINE, Program
from penstock.models.replica.program_lines import OutOfStep, read
from penstock.models.replica.runtime import Call, Cancelled, Output, Schema, Segment, Spec
from penstock.models.replica.runtimes.subprocess import GONE_STATUS, SubprocessRuntime
from tests.support.models import Models, Recorder
from tests.support.runtimes import CollectingWire, call_with, data_of
from tests.support.runtimes import read as value_of

EXAMPLES = Path(__file__).parents[2] / "examples" / "models"
ROOT = Path(__file__).parents[2]
LIMIT = 60.0  # seconds that nothing here may take

Make = Callable[..., SubprocessRuntime]

MEDIA = {"type": "string", "format": "media", "contentMediaType": "application/octet-stream"}

ECHO = """
    for line in sys.stdin:
        print(line, end="", flush=True)
"""


@pytest.fixture
def model(tmp_path: Path) -> Iterator[Make]:
    """Return a function that makes a loaded runtime from the text of a Python program, which has json and sys."""
    made: list[SubprocessRuntime] = []

    def make(program: str, *, schema: Schema | None = None, **options: Any) -> SubprocessRuntime:
        (tmp_path / "program.py").write_text("import json, os, signal, sys\n" + dedent(program))
        options = {"command": [sys.executable, "program.py"], **options}
        found = runtime(tmp_path, schema or Schema(), **options)
        made.append(found)
        found.load()
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)  # as the host does
        yield make
        for one in made:
            one.unload()


def runtime(folder: Path, schema: Schema, **options: Any) -> SubprocessRuntime:
    return SubprocessRuntime(Spec(name="m", version="1", folder=folder, options=options, schema=schema))


def ask(found: SubprocessRuntime, value: Any, *segments: Segment, wire: CollectingWire | None = None) -> Output | None:
    return found.predict(call_with(wire or CollectingWire(), value, *segments))


def pid_of(found: SubprocessRuntime) -> Any:
    return value_of(ask(found, "pid"))


# Answers


def test_one_line_in_is_one_line_out(model: Make) -> None:
    echo = model(ECHO)
    for value in ({"text": "hällo\n\u2028"}, [1, 2.5], "text", None, True, 10**30, {}):
        assert value_of(ask(echo, value)) == value


def test_pretty_json_becomes_one_line_without_touching_its_numbers(model: Make) -> None:
    echo = model(ECHO)
    call = Call(1, b'{\r\n "a": 1.50,\n "b": 1e40\n}', (), request_id="", streams=False, wire=CollectingWire())
    output = echo.predict(call)
    assert output is not None
    assert output.json == b'{"a":1.50,"b":1e40}'


def test_lines_that_are_not_final_are_chunks_progress_and_log(model: Make) -> None:
    found = model("""
        def say(**line):
            print(json.dumps(line), flush=True)
        for line in sys.stdin:
            say(final=False, log="begin")
            say(final=False, log={"level": "warning", "message": "hot"})
            say(final=False, progress={"fraction": 0.5}, output="a")
            say(final=False, word="b")
            print(flush=True)
            say(final=True, output=["c"], progress=1)
    """)
    wire = CollectingWire()
    assert ask(found, 0, wire=wire) is None
    assert wire.values == ["a", {"word": "b"}, ["c"]]
    assert wire.progressed == [{"fraction": 0.5}, 1]
    assert wire.lines == [("info", "begin"), ("warning", "hot")]


def test_a_stream_may_end_with_a_plain_output_or_with_nothing(model: Make) -> None:
    found = model("""
        for line in sys.stdin:
            print('{"final":false,"output":1}')
            print(line.strip(), flush=True)
    """)
    wire = CollectingWire()
    assert ask(found, {"plain": 2}, wire=wire) is None
    assert ask(found, {"final": True}, wire=wire) is None
    assert wire.values == [1, {"plain": 2}, 1]


def test_an_output_of_one_piece_is_the_result_or_the_only_chunk_of_a_model_that_streams(model: Make) -> None:
    wire = CollectingWire()
    assert value_of(ask(model(ECHO), {"final": True, "output": 5}, wire=wire)) == 5
    assert not wire.chunks
    assert ask(model(ECHO, schema=Schema(streams=True)), {"x": 1}, wire=wire) is None
    assert wire.values == [{"x": 1}]


@pytest.mark.parametrize(
    ("line", "kind", "message", "field"),
    [
        ({"error": "too dark"}, "internal", "too dark", None),
        ({"error": "too dark", "final": True}, "internal", "too dark", None),
        ({"error": {"message": "no"}}, "internal", "no", None),
        ({"error": {"message": "not a face", "field": "image"}}, "bad_input", "not a face", "image"),
    ],
)
def test_a_program_refuses_with_an_error_of_its_own_and_continues(
    model: Make, line: object, kind: str, message: str, field: str | None
) -> None:
    echo = model(ECHO)
    with pytest.raises(CallFailed) as refused:
        ask(echo, line)
    assert (refused.value.category, refused.value.message, refused.value.field) == (kind, message, field)
    assert value_of(ask(echo, "next")) == "next"


@pytest.mark.parametrize(
    "line", [{"error": 0.5}, {"error": "x", "rate": 1}, {"error": {"text": "x"}}, {"final": "yes"}, {"final": None}]
)
def test_objects_that_only_resemble_the_protocol_are_outputs(model: Make, line: object) -> None:
    assert value_of(ask(model(ECHO), line)) == line


def test_an_error_in_a_stream_ends_it(model: Make) -> None:
    found = model("""
        for line in sys.stdin:
            print('{"final":false,"output":1}\\n{"error":"broke"}', flush=True)
    """)
    wire = CollectingWire()
    for _ in range(2):
        with pytest.raises(CallFailed, match=r"^broke$"):
            ask(found, 0, wire=wire)
    assert wire.values == [1, 1]


def test_standard_error_is_left_as_it_is_and_no_other_file_is_open(model: Make, tmp_path: Path) -> None:
    secret = os.open(tmp_path / "secret", os.O_CREAT | os.O_RDWR)
    os.set_inheritable(secret, True)
    try:
        found = model("""
            held = sorted(int(name) for name in os.listdir("/proc/self/fd") if os.path.exists("/proc/self/fd/" + name))
            same = os.readlink("/proc/self/fd/2") == os.readlink(f"/proc/{os.getppid()}/fd/2")
            for line in sys.stdin:
                print(json.dumps([held, same, os.getpgrp() == os.getpgid(os.getppid())]), flush=True)
        """)
        assert value_of(ask(found, 0)) == [[0, 1, 2], True, True]
    finally:
        os.close(secret)


# Media


def test_media_travel_as_urls_and_become_media_where_the_schema_says_so(model: Make) -> None:
    image = {"anyOf": [MEDIA, {"type": "null"}]}
    schema = Schema(output={"properties": {"images": {"type": "array", "items": image}, "text": {"type": "string"}}})
    given = {"images": ["data:,plain%20text", None, "https://elsewhere.test/x"], "text": "data:,stays"}
    output = ask(model(ECHO, schema=schema), given, Segment(b"\0\xff" * 3, "image/x-test", ("images", 1)))
    assert output is not None
    assert value_of(output) == {"images": [None, None, "https://elsewhere.test/x"], "text": "data:,stays"}
    assert [(one.path, one.media_type) for one in output.segments] == [
        (("images", 0), "text/plain"),
        (("images", 1), "image/x-test"),
    ]
    assert data_of(output.segments) == [b"plain text", b"\0\xff" * 3]


def test_ten_megabytes_pass_in_both_directions(model: Make) -> None:
    blob = os.urandom(10_000_000)
    echo = model(ECHO, schema=Schema(output=MEDIA))
    for _ in range(2):
        output = ask(echo, None, Segment(blob, "image/x-raw"))
        assert output is not None
        assert output.json == b"null"
        assert output.segments[0].path == ()
        assert output.segments[0].data == blob


def test_a_program_may_write_much_before_it_reads(model: Make) -> None:
    found = model("""
        for index in range(200):
            print(json.dumps({"final": False, "output": "x" * 20_000}), flush=True)
        for line in sys.stdin:
            print(len(line), flush=True)
    """)
    wire = CollectingWire()
    found.predict(call_with(wire, "y" * 5_000_000))
    assert wire.values[-1] == 5_000_003


@pytest.mark.parametrize("url", ["data:nothing", "data:image/png;base64,a", "data:;base64,%%%%"])
def test_a_broken_data_url_in_an_output_fails_the_call_and_names_its_place(model: Make, url: str) -> None:
    schema = Schema(output={"properties": {"image": MEDIA}})
    echo = model(ECHO, schema=schema)
    with pytest.raises(CallFailed, match=r"output cannot be used: image ") as failed:
        ask(echo, {"image": url})
    assert failed.value.category == "internal"
    assert value_of(ask(echo, 1)) == 1


def test_the_rest_of_a_stream_is_dropped_after_a_failure(model: Make) -> None:
    schema = Schema(output={"properties": {"image": MEDIA}}, streams=True)
    found = model(
        """
        for line in sys.stdin:
            for url in ("data:,1", "data:broken", "data:,3"):
                print(json.dumps({"final": False, "image": url}), flush=True)
            print(line, flush=True)
    """,
        schema=schema,
    )
    wire = CollectingWire()
    for _ in range(2):
        with pytest.raises(CallFailed, match="image must be a data: URL"):
            ask(found, {"final": True}, wire=wire)
    assert len(wire.chunks) == 2


# Programs that break the protocol

MISBEHAVING = """
    for line in sys.stdin:
        text = json.loads(line)
        if text == "pid":
            print(os.getpid(), flush=True)
        elif text == "chatter":
            print("debug: starting")
            print('{"secret": "of this caller"}', flush=True)
        elif text == "twice":
            print('1\\n{"secret": "of this caller"}', flush=True)
        elif text == "huge":
            sys.stdout.write("x" * (65 * 2**20))
            print(flush=True)
        elif text == "nan":
            print(json.dumps({"final": False, "output": float("nan")}), flush=True)
            print(json.dumps({"score": float("inf")}), flush=True)
        elif text == "latin":
            sys.stdout.buffer.write(b'{"text": "\\xe4"}\\n')
            sys.stdout.flush()
"""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("chatter", "the program answered a line that is not JSON: debug: starting"),
        ("latin", "the program answered a line that is not JSON: "),
        ("huge", f"the program answered a line of more than {LONGEST_LINE} bytes"),
    ],
)
def test_a_malformed_line_fails_its_call_and_replaces_the_program(model: Make, text: str, message: str) -> None:
    found = model(MISBEHAVING)
    before = pid_of(found)
    with pytest.raises(CallFailed) as failed:
        ask(found, text)
    assert failed.value.category == "internal"
    assert failed.value.message.startswith(message)
    after = pid_of(found)
    assert isinstance(after, int)
    assert after != before


def test_nan_fails_its_call_and_the_program_stays(model: Make) -> None:
    found = model(MISBEHAVING)
    before = pid_of(found)
    with pytest.raises(CallFailed, match="the program's output holds NaN or an infinity, which JSON does not have"):
        ask(found, "nan")
    assert pid_of(found) == before


def test_a_surplus_line_reaches_no_other_caller(model: Make) -> None:
    found = model(MISBEHAVING)
    before = pid_of(found)
    assert value_of(ask(found, "twice")) == 1
    wire = CollectingWire()
    after = value_of(ask(found, "pid", wire=wire))
    assert isinstance(after, int)
    assert after != before
    ((level, message),) = wire.lines
    assert level == "warning"
    assert "it is restarted" in message
    assert "secret" not in message


def test_an_error_quotes_only_the_beginning_of_a_line() -> None:
    with pytest.raises(OutOfStep) as found:
        read(b"word " * 1000)
    assert len(str(found.value)) < 250
    assert str(found.value).endswith("…")


def test_an_input_that_no_line_can_hold_is_refused(model: Make) -> None:
    echo = model(ECHO)
    with pytest.raises(CallFailed, match=f"the model takes {LONGEST_LINE}") as refused:
        ask(echo, None, Segment(bytes(49 * 2**20)))
    assert refused.value.category == "bad_input"


# Cancelling

PATIENT = """
    stop = False
    def note_signal(*_):
        global stop
        stop = True
    signal.signal(signal.SIGINT, note_signal)
    while line := sys.stdin.readline():
        stop = False
        print('{"final":false,"output":"begun"}', flush=True)
        while not stop and line.strip() == '"wait"':
            signal.pause()
        print('{"final":false,"output":"unread"}\\n{"final":true,"output":"end"}', flush=True)
"""


class Begun(CollectingWire):
    """Sets an event when the first chunk has come."""

    def __init__(self) -> None:
        super().__init__()
        self.begun = threading.Event()

    def chunk(self, call: Call, output: Output) -> None:
        super().chunk(call, output)
        self.begun.set()


def test_a_cancelled_call_gets_a_signal_and_the_program_continues(model: Make) -> None:
    found = model(PATIENT, cancel="signal")
    assert found.describe().cancels
    for _ in range(3):
        wire = Begun()
        call = call_with(wire, "wait", streams=True)
        with ThreadPoolExecutor(1) as pool:
            ended = pool.submit(outcome, found, call)
            assert wire.begun.wait(LIMIT)
            call.cancel()
            assert isinstance(ended.result(LIMIT), Cancelled)
        assert wire.values == ["begun"]
    after = CollectingWire()
    ask(found, "go", wire=after)
    assert after.values == ["begun", "unread", "end"]


def outcome(found: SubprocessRuntime, call: Call) -> BaseException:
    """Return the failure of a call."""
    try:
        found.predict(call)
    except BaseException as error:  # noqa: BLE001 - whatever it is
        return error
    raise AssertionError("it ended well")


def test_without_the_option_a_cancelled_call_runs_to_its_end_and_its_output_is_dropped(model: Make) -> None:
    found = model(ECHO)
    assert not found.describe().cancels

    class Leaving(CollectingWire):
        def chunk(self, call: Call, output: Output) -> None:
            super().chunk(call, output)
            call.cancel()

    program = model("""
        for line in sys.stdin:
            for index in range(3):
                print(json.dumps({"final": False, "output": index}), flush=True)
            print('"end"', flush=True)
    """)
    wire = Leaving()
    with pytest.raises(Cancelled):
        ask(program, 0, wire=wire)
    assert wire.values == [0]
    after = CollectingWire()
    ask(program, 0, wire=after)
    assert after.values == [0, 1, 2, "end"]


def test_a_signal_that_comes_after_the_output_is_not_sent(model: Make) -> None:
    found = model("signal.signal(signal.SIGINT, signal.SIG_DFL)" + dedent(ECHO), cancel="signal")
    call = call_with(CollectingWire(), "pid")
    found.predict(call)
    call.cancel()
    assert value_of(ask(found, 1)) == 1


def test_a_call_that_was_cancelled_before_never_reaches_the_program(model: Make) -> None:
    found = model(ECHO)
    call = call_with(CollectingWire(), 1)
    call.cancel()
    with pytest.raises(Cancelled):
        found.predict(call)
    assert value_of(ask(found, 2)) == 2


# The program's life

ALONE = """
import sys
from pathlib import Path
from penstock.models.replica.runtime import Schema, Spec
from penstock.models.replica.runtimes.subprocess import SubprocessRuntime
from tests.support.runtimes import CollectingWire, call_with

options = {"command": [sys.executable, "-c", sys.argv[1]]}
runtime = SubprocessRuntime(Spec(name="m", version="1", folder=Path("/"), options=options, schema=Schema()))
runtime.load()
print("loaded", flush=True)
for line in sys.stdin:
    output = runtime.predict(call_with(CollectingWire(), line.strip()))
    print(output.json.decode(), flush=True)
runtime.unload()
print("unloaded", flush=True)
"""


class Alone:
    """The necessary part of a replica, in its own process: it runs a call for each line of input."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def tell(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def hear(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def end(self) -> tuple[int, str]:
        """Return its exit status and log, and kill the rest of its process group, as a host does."""
        status = self.process.wait(LIMIT)
        self.kill_group()
        assert self.process.stderr is not None
        return status, self.process.stderr.read()

    def kill_group(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)


@contextmanager
def alone(program: str) -> Iterator[Alone]:
    command = [sys.executable, "-c", ALONE, "import os, signal, sys, time\n" + dedent(program)]
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, cwd=ROOT, start_new_session=True
    ) as process:
        found = Alone(process)
        try:
            yield found
        finally:
            found.kill_group()


@pytest.mark.parametrize(
    ("end", "words"),
    [
        ("sys.exit(3)", "the program ended with exit status 3"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "the program was ended by signal SIGSEGV"),
        ("os.abort()", "the program was ended by signal SIGABRT"),
        ("os.close(1); time.sleep(60)", "the program closed its output and kept running"),
        (
            "os.fork() or time.sleep(60); os._exit(4)",  # a child of its own keeps the output open
            "the program ended with exit status 4",
        ),
        ("print('{\"half\":', flush=True, end=''); os._exit(5)", "the program ended with exit status 5"),
    ],
)
def test_a_program_that_ends_in_a_call_ends_its_replica_too(end: str, words: str) -> None:
    with alone(f"sys.stdin.readline()\n{end}") as replica:
        replica.tell("x")
        assert replica.end() == (GONE_STATUS, f"{words}; its replica ends with it\n")


def test_a_program_that_ends_between_calls_ends_its_replica_too() -> None:
    with alone("sys.exit(6)") as replica:
        assert replica.end() == (GONE_STATUS, "the program ended with exit status 6; its replica ends with it\n")


def test_the_last_output_before_the_end_still_arrives() -> None:
    with alone("print(sys.stdin.readline(), flush=True)\nsys.exit(7)") as replica:
        replica.tell("x")
        assert [replica.hear(), replica.hear()] == ["loaded", '"x"']
        assert replica.end()[0] == GONE_STATUS


def test_unloading_closes_the_input_and_waits() -> None:
    program = "for line in sys.stdin: print(line, flush=True)\nprint('bye', file=sys.stderr, flush=True)"
    with alone(program) as replica:
        said, logged = replica.process.communicate("x\n", timeout=LIMIT)
    assert (replica.process.returncode, said.splitlines()) == (0, ["loaded", '"x"', "unloaded"])
    assert logged == "bye\n"


def test_a_program_that_ignores_the_end_of_its_input_is_killed(model: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("penstock.models.replica.program._END_SECONDS", 0.05)
    monkeypatch.setattr("penstock.models.replica.program._TERMINATE_SECONDS", 0.05)
    found = model("""
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        print(sys.stdin.readline(), flush=True)
        while True:
            signal.pause()
    """)
    assert value_of(ask(found, 1)) == 1
    program = found._program
    assert program is not None
    found.unload()
    assert program.how_it_ended() == "the program was ended by signal SIGKILL"


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the end of its input ends the program")
def test_the_program_dies_with_a_replica_that_is_killed() -> None:
    program = """
        print(os.getpid(), flush=True) if sys.stdin.readline() else None
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        while True:
            time.sleep(60)
    """
    with alone(program) as replica:
        replica.tell("x")
        assert replica.hear() == "loaded"
        watched = os.pidfd_open(int(replica.hear()))
        try:
            replica.process.kill()  # alone, not its group
            assert select.select([watched], [], [], LIMIT)[0]
        finally:
            os.close(watched)


def test_signals_have_their_usual_meaning_in_the_program(model: Make) -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as in a replica
    try:
        found = model("""
            usual = [signal.getsignal(signal.SIGINT) is signal.default_int_handler]
            for line in sys.stdin:
                with open("/proc/self/status") as file:
                    ignored = next(text for text in file if text.startswith("SigBlk"))
                print(json.dumps([usual, int(ignored.split()[1], 16)]), flush=True)
        """)
        assert value_of(ask(found, 0)) == [[True], 0]
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_program_that_cannot_be_started_is_reported(tmp_path: Path) -> None:
    (tmp_path / "script").write_text("no first line that names an interpreter\n")
    (tmp_path / "script").chmod(0o755)
    with pytest.raises(CallFailed, match="script cannot be started: Exec format error") as failed:
        runtime(tmp_path, Schema(), command="./script").load()
    assert failed.value.category == "unavailable"
    with pytest.raises(CallFailed, match="there is no program nowhere-at-all"):
        runtime(tmp_path, Schema(), command="nowhere-at-all").load()
    with pytest.raises(CallFailed, match="cannot be started: Permission denied"):
        Program([str(tmp_path)])


# In a replica


async def test_a_replica_whose_program_ends_is_started_again_and_reports_why(models: Models) -> None:
    program = "import sys\nfor line in sys.stdin: print(line, flush=True) if len(line) > 2 else sys.exit(3)"
    command = [sys.executable, "-c", program]
    model = await models.host.add(models.model("exit", "subprocess", {"command": command}, retry=False))
    with pytest.raises(ModelCrashed, match="the program ended with exit status 3"):
        await models.call(model, 1)
    assert await models.call(model, "text") == "text"
    said = [line.message for line in models.lines(model)]
    assert "the program ended with exit status 3; its replica ends with it" in said


async def test_a_caller_that_goes_frees_the_program_for_the_next_one(models: Models) -> None:
    command = [sys.executable, "-c", "import signal, sys\n" + dedent(PATIENT)]
    stated = models.model("waiting", "subprocess", {"command": command, "cancel": "signal"})
    model = await models.host.add(stated)
    recorder = Recorder()
    call = models.begin(model, "wait", streams=True, listener=recorder)
    async with asyncio.timeout(LIMIT):
        await recorder.chunk_came.wait()
        call.close()
        assert await models.call(model, "go") == ["begun", "unread", "end"]
    assert recorder.chunks == ["begun"]
    assert len(model.replicas) == 1


# Options


@pytest.mark.parametrize(
    ("options", "field", "detail"),
    [
        ({}, "command", "is required"),
        ({"command": []}, "command", "is required"),
        ({"command": ""}, "command", "is required"),
        ({"command": [""]}, "command", "is required"),
        ({"command": ["jq", 1]}, "command", "is required"),
        ({"command": ["jq", "\0"]}, "command", "NUL"),
        ({"command": "jq 'open"}, "command", "cannot be split as a shell would"),
        ({"command": "nowhere-at-all -x"}, "command", "must begin with a program"),
        ({"command": "./data.txt"}, "command", "must begin with a program"),
        ({"command": "jq", "cancel": "kill"}, "cancel", 'must be "signal"'),
        ({"command": "jq", "shell": True}, "shell", "it has command, cancel"),
    ],
)
def test_a_wrong_option_is_named_with_what_is_allowed(
    tmp_path: Path, options: dict[str, Any], field: str, detail: str
) -> None:
    (tmp_path / "data.txt").write_text("")
    with pytest.raises(InvalidInput) as refused:
        manifest.check({"name": "m", "runtime": "subprocess", "subprocess": options}, folder=tmp_path, source="folder")
    ((name, found),) = [(problem.field, problem.detail) for problem in refused.value.problems]
    assert name == f"subprocess.{field}"
    assert detail in found


def test_a_program_of_the_folder_comes_before_the_path_and_no_shell_reads_the_command(tmp_path: Path) -> None:
    program = tmp_path / "jq"
    program.write_text('#!/bin/sh\nwhile read -r line; do printf \'"%s"\\n\' "$1"; done\n')
    program.chmod(0o755)
    found = runtime(tmp_path, Schema(), command="jq '$HOME ; *'")
    found.load()
    try:
        assert value_of(ask(found, 0)) == "$HOME ; *"
    finally:
        found.unload()


# Examples


def example(name: str) -> SubprocessRuntime:
    stated = manifest.read(EXAMPLES / name / manifest.FILE_NAME)
    return runtime(stated.folder, stated.schema, **stated.manifest.options)


def test_the_shell_example_streams_a_louder_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(EXAMPLES / "shout-shell")
    found = example("shout-shell")
    found.load()
    try:
        for text, words in (("hello  big\nworld", ["HELLO", "BIG", "WORLD"]), ("", [])):
            wire = CollectingWire()
            assert ask(found, {"text": text}, wire=wire) is None
            assert wire.values == words
        with pytest.raises(CallFailed):
            ask(found, {"text": 1})
    finally:
        found.unload()


def test_the_java_example_counts_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(EXAMPLES / "words-java")
    found = example("words-java")
    found.load()
    try:
        text = 'Der "Käse" und der\tkäse, \\ 東京 \U0001f600 don\'t\n' * 100
        assert value_of(ask(found, {"text": text, "most": 2})) == {
            "total": 700,
            "different": 5,
            "words": [{"word": "der", "count": 200}, {"word": "käse", "count": 200}],
        }
        call = Call(1, b'{"text": "\\u00e4 a\\/b" }', (), request_id="", streams=False, wire=CollectingWire())
        words = value_of(found.predict(call))["words"]
        assert [one["word"] for one in words] == ["a", "b", "ä"]
        with pytest.raises(CallFailed, match="the input cannot be read"):
            ask(found, {"text": [1]})
        assert value_of(ask(found, {"text": "word " * 1_000_000}))["total"] == 1_000_000
    finally:
        found.unload()


def test_final_lines_survive_odd_but_valid_spelling() -> None:
    said = read(b'{ "\\u0066inal" : false , "output" : {"a": [1, 2]} }')
    assert (said.final, msgspec.json.decode(said.output or b"")) == (False, {"a": [1, 2]})
    assert read(b'{"final":true}').output is None
    assert read(b'{"final":false}').output == b"{}"
