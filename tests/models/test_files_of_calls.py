"""Large media of calls are files: of inputs, of results, in every runtime, removed however a call ends."""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from penstock.errors import InvalidInput, ModelCrashed, ModelFailed, ModelUnavailable, Overloaded
from penstock.models.host.call_folders import CallFolders
from penstock.models.host.deployment import Deployment
from penstock.models.host.guardian import Guardian
from penstock.models.replica.file_bytes import FileBytes
from penstock.models.replica.runtime import Segment
from penstock.models.replica.runtimes.native import HEADER
from tests.support.models import Models, model_host, read
from tests.support.waiting import until

MIB = 2**20
PIECE = bytes(range(256)) * 1024


@pytest.fixture
async def models(tmp_path: Path) -> AsyncIterator[Models]:
    """A host with a folder for files of calls."""
    (tmp_path / "models").mkdir()
    async with model_host(tmp_path / "models", call_folder=tmp_path / "calls") as models:
        yield models


def folders(models: Models) -> CallFolders:
    return models.host.folders


def left(tmp_path: Path) -> list[str]:
    """Return what is left in the folder for files of calls, below the folders of hosts."""
    return [str(path.relative_to(tmp_path)) for path in (tmp_path / "calls").glob("*/*")]


async def pieces(size: int) -> AsyncIterator[bytes]:
    for _ in range(size // len(PIECE)):
        yield PIECE


async def stored(models: Models, size: int, *, path: str, name: str = "talk.wav", kind: str = "audio/wav") -> Segment:
    """Return media as an upload of that size."""
    folder = await folders(models).folder()
    data = await folder.store(pieces(size), size, name=name, identity=b"x")
    return Segment(data, kind, (path,), name)


async def ask(models: Models, deployment: Deployment, field: str, segment: Segment, **given: Any) -> Any:
    value = {field: "data:audio/wav,", **given}
    deployment.checker.check(value)
    call = models.host.call(deployment, b'{"%s": null}' % field.encode(), [segment])
    del segment
    return await call.done


DIGEST = """
import hashlib
from penstock import Audio, File, context

class Model:
    def predict(self, talk: File) -> dict[str, object]:
        digest = hashlib.sha256()
        with talk.path.open("rb") as file:
            while piece := file.read(2**18):
                digest.update(piece)
        return {
            "path": str(talk.path), "size": talk.size, "name": talk.name, "sha256": digest.hexdigest(),
            "writable": bool(talk.path.stat().st_mode & 0o222), "private": oct(talk.path.parent.parent.stat().st_mode),
        }
"""


async def test_a_model_gets_a_path_in_a_private_folder_that_is_removed(models: Models, tmp_path: Path) -> None:
    """Nothing of the caller's name but its ending is part of the path."""
    model = await models.serve("digest", DIGEST)
    segment = await stored(models, 2 * MIB, path="talk", name="../../etc/pass\nwd.m4a")
    found = read(await ask(models, model, "talk", segment))
    path = Path(found.pop("path"))
    assert path.is_relative_to(tmp_path / "calls")
    assert path.name == "0.m4a"
    assert found == {
        "size": 2 * MIB,
        "name": "../../etc/pass\nwd.m4a",
        "sha256": hashlib.sha256(PIECE * 8).hexdigest(),
        "writable": False,
        "private": "0o40700",
    }
    await until(lambda: not path.exists() and not path.parent.exists(), "the files of the call are removed")


async def test_small_media_have_a_path_too(models: Models, tmp_path: Path) -> None:
    """A model need not know how its media came."""
    model = await models.serve("digest", DIGEST)
    found = read(await ask(models, model, "talk", Segment(b"abc", "text/plain", ("talk",), "a.txt")))
    assert found["sha256"] == hashlib.sha256(b"abc").hexdigest()
    assert found["path"].endswith(".txt")
    await until(lambda: not Path(found["path"]).parent.exists(), "the folder of the call is removed")


MAKE = """
import os
from penstock import File, context

class Model:
    def predict(self, size: int, outside: str = "", kind: str = "file") -> File:
        path = context().folder / "made.mp4"
        if kind == "link":
            path.symlink_to(outside)
        elif kind == "pipe":
            os.mkfifo(path)
        else:
            with path.open("wb") as file:
                for _ in range(size // 2**18):
                    file.write(bytes(range(256)) * 1024)
        return File.at(path)
"""


async def test_a_model_returns_a_file_by_its_path(models: Models, tmp_path: Path) -> None:
    """The host holds the file, which no longer has a name, and the call's folder is gone."""
    model = await models.serve("make", MAKE)
    result = await models.begin(model, {"size": 4 * MIB}).done
    (segment,) = result.segments
    assert isinstance(segment.data, FileBytes)
    assert (segment.media_type, segment.name, segment.data.size) == ("video/mp4", "made.mp4", 4 * MIB)
    assert segment.data.whole() == PIECE * 16
    assert not Path(segment.data.path).exists()
    replica = Path(segment.data.path).parents[1]
    await until(lambda: not list(replica.glob("call-*")), "the folder of the call is removed")
    assert list((replica / "out").iterdir()) == []


async def test_small_files_are_returned_in_memory(models: Models) -> None:
    model = await models.serve("make", MAKE)
    (segment,) = (await models.begin(model, {"size": 2**18}).done).segments
    assert segment.data == PIECE


async def test_what_is_not_a_regular_file_fails_its_call_only(models: Models) -> None:
    model = await models.serve("make", MAKE)
    with pytest.raises(ModelFailed, match="there is no regular file"):
        await models.call(model, {"size": 0, "kind": "pipe"})
    with pytest.raises(ModelFailed, match="there is no regular file"):
        await models.call(model, {"size": 0, "kind": "link", "outside": "/nowhere"})
    (segment,) = (await models.begin(model, {"size": 2**18}).done).segments
    assert len(segment.data) == 2**18
    assert model.restarts == 0


async def test_a_chunk_cannot_hold_a_large_file(models: Models) -> None:
    """Chunks are bounded; the message says what to do."""
    code = MAKE.replace(") -> File:", ") -> Iterator[File]:").replace("return File", "yield File")
    model = await models.serve("make", "from collections.abc import Iterator\n" + code)
    with pytest.raises(ModelFailed, match="a chunk holds a file of 83886080 bytes"):
        await models.call(model, {"size": 80 * MIB})


HANDS_OVER = """
import os
from pathlib import Path
from penstock import context
from penstock.models.replica import call_files
from penstock.models.replica.file_bytes import FileBytes
from penstock import File

class Model:
    def predict(self, name: str, target: str) -> File:
        def hand_over(self, file):
            out = self.root / "out"
            out.mkdir(exist_ok=True)
            if target:
                os.symlink(target, out / "1")
            return name
        call_files.CallFiles.hand_over = hand_over
        path = context().folder / "x"
        path.write_bytes(bytes(2**21))
        return File(FileBytes(str(path), 2**21))
"""


@pytest.mark.parametrize(
    ("name", "target"), [("1", "/etc/passwd"), ("../../secret", ""), ("/etc/passwd", ""), ("7", ""), ("1", "/dev/zero")]
)
async def test_a_hostile_replica_hands_over_nothing_else(models: Models, name: str, target: str) -> None:
    """Links, other names and devices break the protocol, so the replica ends."""
    model = await models.serve("hostile", HANDS_OVER, retry=False)
    with pytest.raises(ModelCrashed, match="broke the protocol: a file"):
        await models.call(model, {"name": name, "target": target})


async def test_files_are_removed_when_the_replica_is_killed(models: Models, tmp_path: Path) -> None:
    """So are those that the model has written itself."""
    code = """
    import os
    from penstock import File, context

    class Model:
        def predict(self, talk: File) -> int:
            (context().folder / "half").write_bytes(bytes(1000))
            os.kill(os.getpid(), 9)
            return 1
    """
    model = await models.serve("dies", code, retry=False)
    segment = await stored(models, 2 * MIB, path="talk")
    with pytest.raises(ModelCrashed):
        await ask(models, model, "talk", segment)
    del segment
    await until(lambda: not [one for one in left(tmp_path) if "input" in one], "the input's files are removed")
    own = await folders(models).open()
    kept = {own / replica.name for replica in model.replicas}
    await until(lambda: set(own.iterdir()) <= kept, "the replica's files are removed")


async def test_a_call_that_is_tried_again_finds_its_files(models: Models, tmp_path: Path) -> None:
    """The second replica reads the same files."""
    code = f"""
    import os
    from pathlib import Path
    from penstock import File

    class Model:
        def predict(self, talk: File) -> int:
            first = Path({str(tmp_path / "first")!r})
            if not first.exists():
                first.touch()
                os._exit(9)
            return talk.path.stat().st_size
    """
    model = await models.serve("again", code)
    segment = await stored(models, 2 * MIB, path="talk")
    assert read(await ask(models, model, "talk", segment)) == 2 * MIB


async def test_files_of_a_call_that_is_cancelled_are_removed(models: Models, tmp_path: Path) -> None:
    model = await models.serve("digest", DIGEST)
    segment = await stored(models, 2 * MIB, path="talk")
    call = models.host.call(model, b'{"talk": null}', [segment])
    call.close()
    del call, segment
    await until(lambda: not [one for one in left(tmp_path) if "input" in one], "the files are removed")


async def test_the_bytes_of_all_calls_are_bounded(tmp_path: Path) -> None:
    """A call whose files have no space gets 503 and may come again; space is free when a call has ended."""
    made = CallFolders(tmp_path, Guardian(), max_bytes=3 * MIB)
    first, second = await made.folder(), await made.folder()
    await first.store(pieces(2 * MIB), 2 * MIB, name=None, identity=b"")
    with pytest.raises(Overloaded, match="the files of running and waiting calls have 2097152 bytes"):
        await second.store(pieces(2 * MIB), 2 * MIB, name=None, identity=b"")
    first.remove()
    await second.store(pieces(2 * MIB), 2 * MIB, name=None, identity=b"")
    await made.close()
    assert list(tmp_path.iterdir()) == []


async def test_a_folder_that_cannot_be_used_concerns_calls_with_files_only(tmp_path: Path) -> None:
    """It is not there because something else has its name."""
    (tmp_path / "models").mkdir()
    (tmp_path / "calls").write_text("a file")
    async with model_host(tmp_path / "models", call_folder=tmp_path / "calls") as models:
        model = await models.serve("size", "class Model:\n    def predict(self, n: int) -> int:\n        return n\n")
        assert await models.call(model, {"n": 5}) == 5
        with pytest.raises(ModelUnavailable, match="the folder for files of calls cannot be used: File exists"):
            await stored(models, 2 * MIB, path="talk")
        make = await models.serve("make", MAKE)
        with pytest.raises(ModelFailed, match="this process has no folder for files of calls"):
            await models.call(make, {"size": 1})


async def test_the_folder_of_a_killed_host_is_removed_by_the_next(tmp_path: Path) -> None:
    """This holds even if its guardian was killed, too; the folder of a running host stays."""
    lives = CallFolders(tmp_path, Guardian())
    await (await lives.folder()).store(pieces(MIB), MIB, name=None, identity=b"")
    (tmp_path / "host-killed" / "r1").mkdir(parents=True)
    (tmp_path / "other").mkdir()
    following = CallFolders(tmp_path, Guardian())
    await following.open()
    assert {path.name for path in tmp_path.iterdir()} == {
        "other", (await lives.open()).name, (await following.open()).name,
    }  # fmt: skip
    await following.close()
    await lives.close()


HOST = """
import asyncio, sys
from pathlib import Path
from penstock.telemetry import logs
from tests.support.models import model_host

async def main():
    folder = Path(sys.argv[1])
    async with model_host(folder / "models", call_folder=folder / "calls") as models:
        model = await models.serve("writes", '''
from penstock import context
import time

class Model:
    def predict(self) -> int:
        (context().folder / "half").write_bytes(bytes(1000))
        print("written", flush=True)
        time.sleep(300)
''')
        models.begin(model, {})
        while not list(folder.glob("calls/*/*/call-*/half")):
            await asyncio.sleep(0.01)
        print("ready", flush=True)
        await asyncio.sleep(300)

logs.configure(stream=sys.stderr)
asyncio.run(main())
"""


async def test_files_are_removed_when_the_host_is_killed(tmp_path: Path) -> None:
    """The guardian removes them after it has killed the replicas."""
    (tmp_path / "models").mkdir()
    host = await asyncio.create_subprocess_exec(
        sys.executable, "-c", HOST, str(tmp_path), stdout=asyncio.subprocess.PIPE, cwd=Path(__file__).parents[2]
    )
    assert host.stdout is not None
    try:
        assert await host.stdout.readline() == b"ready\n"
    finally:
        host.kill()
        await host.wait()
    await until(lambda: not list((tmp_path / "calls").iterdir()), "nothing is left", seconds=10)


async def test_memory_stays_flat(models: Models) -> None:
    """A file of 192 MiB is read by a model and returned by another: neither host nor replica grows by its size."""
    digest, make = await models.serve("digest", DIGEST), await models.serve("make", MAKE)
    await ask(models, digest, "talk", await stored(models, 2 * MIB, path="talk"))
    await models.begin(make, {"size": 2 * MIB}).done
    watched = [os.getpid(), *(replica.pid for one in (digest, make) for replica in one.replicas if replica.pid)]
    before = {pid: psutil.Process(pid).memory_info().rss for pid in watched}
    for pid in watched:
        Path(f"/proc/{pid}/clear_refs").write_text("5")  # forgets the peak
    size = 192 * MIB
    found = read(await ask(models, digest, "talk", await stored(models, size, path="talk")))
    assert found["size"] == size
    (segment,) = (await models.begin(make, {"size": size}).done).segments
    assert isinstance(segment.data, FileBytes)
    assert sum(len(piece) for piece in segment.data.pieces()) == size
    for pid in watched:
        status = Path(f"/proc/{pid}/status").read_text()
        peak = 1024 * int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])
        assert peak - before[pid] < 32 * MIB


# Other runtimes

MEDIA = {"type": "string", "format": "media", "contentMediaType": "application/octet-stream"}
SCHEMA = {
    "input": {"type": "object", "properties": {"talk": MEDIA, "op": {"type": "string"}}},
    "output": {"type": "object", "properties": {"made": MEDIA}},
}

PROGRAM = """
import hashlib, json, os, sys
from pathlib import Path

for line in sys.stdin:
    given = json.loads(line)
    folder = Path(os.environ["PENSTOCK_FILES"])
    op = given.get("op", "")
    if op == "outside":
        answer = {"made": given["talk"]}
    elif op == "dots":
        answer = {"made": str(folder / ".." / "x")}
    elif op == "link":
        (folder / "l").symlink_to("/etc/passwd")
        answer = {"made": str(folder / "l")}
    elif op == "folder":
        (folder / "d").symlink_to("/etc")
        answer = {"made": str(folder / "d" / "passwd")}
    elif op == "left":
        answer = {"left": os.listdir(folder)}
    else:
        talk = Path(given["talk"])
        digest = hashlib.sha256(talk.read_bytes()).hexdigest()
        (folder / "made.png").write_bytes(talk.read_bytes()[::-1])
        (folder / "spare").write_bytes(b"x")
        answer = {"made": str(folder / "made.png"), "sha256": digest, "path": given["talk"]}
    print(json.dumps(answer), flush=True)
"""


async def program(models: Models) -> Deployment:
    (models.folder / "program.py").write_text(PROGRAM)
    options = {"command": [sys.executable, "program.py"], "media": "path"}
    return await models.host.add(models.model("program", "subprocess", options, schema=SCHEMA))


async def test_a_program_gets_and_returns_paths(models: Models) -> None:
    """Media that the caller wrote into the JSON are files too."""
    model = await program(models)
    segment = await stored(models, 2 * MIB, path="talk", name="talk.mp4")
    result = await ask(models, model, "talk", segment)
    found = read(result)
    assert (found["made"], found["sha256"]) == (None, hashlib.sha256(PIECE * 8).hexdigest())
    (made,) = result.segments
    assert (made.path, made.media_type, made.name) == (("made",), "image/png", "made.png")
    assert made.in_memory() == (PIECE * 8)[::-1]
    small = await models.begin(model, {"talk": "data:text/plain,abc"}).done
    assert bytes(small.segments[0].in_memory()) == b"cba"
    assert read(small)["path"].endswith(".txt")
    assert read(await models.begin(model, {"op": "left"}).done) == {"left": []}


@pytest.mark.parametrize("op", ["outside", "dots", "link", "folder"])
async def test_a_program_returns_only_files_of_its_folder(models: Models, op: str) -> None:
    """A path that an input smuggled into the answer leads nowhere."""
    model = await program(models)
    with pytest.raises(ModelFailed, match="names a file at made that is not a regular file in PENSTOCK_FILES"):
        await models.call(model, {"talk": "data:text/plain,abc", "op": op})
    assert model.restarts == 0
    assert read(await models.begin(model, {"op": "left"}).done) == {"left": []}


async def test_a_large_file_for_a_program_without_paths_is_refused(models: Models) -> None:
    (models.folder / "program.py").write_text(PROGRAM)
    options = {"command": [sys.executable, "program.py"]}
    model = await models.host.add(models.model("program", "subprocess", options, schema=SCHEMA))
    with pytest.raises(InvalidInput, match="has files of 83886080 bytes; as text in JSON at most 67108864"):
        await ask(models, model, "talk", await stored(models, 80 * MIB, path="talk"))


NATIVE = """
#include <string.h>
#include <stdlib.h>
#include "penstock.h"
static penstock_part back;
int penstock_abi(void) { return PENSTOCK_ABI; }
int penstock_create(const char *c, size_t n, void **m, penstock_error *e) { return PENSTOCK_OK; }
int penstock_predict(void *m, const penstock_request *r, const penstock_callbacks *k, penstock_result *o,
                     penstock_error *e) {
    char *copy = malloc(r->parts[0].size);
    memcpy(copy, r->parts[0].data, r->parts[0].size);
    memset(&back, 0, sizeof back);
    back.data = copy; back.size = r->parts[0].size;
    o->json.data = "null"; o->json.size = 4; o->parts = &back; o->count = 1; o->owner = copy;
    return PENSTOCK_OK;
}
void penstock_free_result(void *m, penstock_result *o) { free(o->owner); }
void penstock_destroy(void *m) {}
"""


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
async def test_a_library_reads_a_file_as_memory(models: Models) -> None:
    """It is mapped for the library; a large part that it returns becomes a file."""
    (models.folder / "echo.c").write_text(NATIVE)
    subprocess.run(  # noqa: ASYNC221
        ["cc", f"-I{HEADER.parent}", "-fPIC", "-shared", "-o", "libecho.so", "echo.c"], cwd=models.folder, check=True
    )
    model = await models.host.add(models.model("echo", "native", {"library": "./libecho.so"}, schema=SCHEMA))
    (made,) = (await ask(models, model, "talk", await stored(models, 3 * MIB, path="talk"))).segments
    assert isinstance(made.data, FileBytes)
    assert made.data.whole() == PIECE * 12


WRITER = """
from pathlib import Path
from penstock import context

class Model:
    def predict(self, mebibytes: int, gate: str) -> str:
        folder = context().folder
        for number in range(mebibytes):
            (folder / str(number)).write_bytes(bytes(range(256)) * 4096)
        while mebibytes and not Path(gate).exists():
            import time; time.sleep(0.01)
        return "done"
"""


async def test_a_replica_that_writes_too_much_is_killed_and_its_files_are_removed(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    gate = str(tmp_path / "gate")
    async with model_host(tmp_path / "models", call_folder=tmp_path / "calls", max_file_bytes=6 * MIB) as models:
        large = await models.serve("large", WRITER)
        small = await models.serve("small", WRITER)
        beside = models.begin(small, {"mebibytes": 2, "gate": gate})
        with pytest.raises(ModelCrashed, match="those of all models may have 6 MiB together"):
            await models.call(large, {"mebibytes": 8, "gate": gate})
        assert await models.call(large, {"mebibytes": 0, "gate": gate}) == "done"
        Path(gate).touch()
        assert read(await beside.done) == "done"
        await until(lambda: left(tmp_path) == [] or all("call-" not in name for name in left(tmp_path)), "removed")
