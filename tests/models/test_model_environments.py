"""Environments of models: made from lock files by ``penstock model install``, whole or not at all."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from pathlib import Path

import pytest

from penstock.errors import CannotStart, InvalidInput, ModelUnavailable
from penstock.models import manifest
from penstock.models.environments import environment, installing, lock_file, records
from penstock.models.environments.environment import Environment
from penstock.models.environments.holding import held, raise_busy
from penstock.models.folder import ManifestFiles, ModelsFolder
from penstock.models.host.environment import interpreter
from tests.support.models import Models
from tests.support.processes import PENSTOCK, clean_environment
from tests.support.waiting import until, within
from tests.support.wheels import REPLICA, Wheels, without_index

GREETING = {
    "greeting.py": "def main(): print('good day')\n",
    "greeting-1.0.dist-info/entry_points.txt": "[console_scripts]\ngreet = greeting:main\n",
}
MODEL = """
import sys, greeting

class Model:
    def predict(self) -> list[str]:
        return [sys.prefix, greeting.__name__]
"""


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Wheels:
    made = Wheels(tmp_path_factory.mktemp("wheels"))
    for name in REPLICA:
        made.add_installed(name)
    made.add("greeting", GREETING)
    made.add("torn", {"torn.py": ""}, requires="not-there")
    return made


@pytest.fixture(scope="module")
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def shared_cache(_cache: Path, wheels: Wheels, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder that several tests use, because an install takes seconds."""
    return _use(_cache, wheels, monkeypatch)


@pytest.fixture
def cache(tmp_path: Path, wheels: Wheels, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of this test's own."""
    return _use(tmp_path / "cache", wheels, monkeypatch)


def _use(cache: Path, wheels: Wheels, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    for name, value in without_index(wheels.folder).items():
        monkeypatch.setenv(name, value)
    return cache


def run(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def umask() -> int:
    """Return the bits that new files do not have."""
    status = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in status if line.startswith("Umask:")).split()[1], 8)


def locked(folder: Path, content: str) -> Environment:
    """Return the environment of a lock file that is written into a folder."""
    lock = folder / "requirements.lock"
    lock.write_text(content)
    return environment.of_lock(lock)


def install(one: Environment) -> list[str]:
    """Install an environment and return the lines about it."""
    lines: list[str] = []
    installing.install(one, report=lines.append)
    return lines


def whole(one: Environment) -> bool:
    return one.installed


def write_model(folder: Path, lock: str) -> Path:
    """Write a model that needs the package greeting; return its manifest."""
    folder.mkdir(parents=True)
    (folder / "model.py").write_text(MODEL)
    (folder / "requirements.lock").write_text(lock)
    path = folder / "model.toml"
    path.write_text('runtime = "python"\n[python]\nclass = "model:Model"\nenvironment = "requirements.lock"\n')
    return path


def command(*arguments: str, cache: Path, wheels: Wheels, **more: str) -> subprocess.CompletedProcess[str]:
    variables = clean_environment(XDG_CACHE_HOME=str(cache), **without_index(wheels.folder), **more)
    return subprocess.run(
        [*PENSTOCK, *arguments], env=variables, capture_output=True, text=True, timeout=60, check=False
    )


async def test_a_model_runs_in_its_environment_once_that_is_installed(
    models: Models, shared_cache: Path, wheels: Wheels, tmp_path: Path
) -> None:
    """Before, the error names the command. Penstock's own packages are not in the environment."""
    path = write_model(tmp_path / "polite", wheels.lock("greeting"))
    with pytest.raises(ModelUnavailable, match="`penstock model install polite`"):
        await models.host.add(manifest.read(path))
    done = command("model", "install", str(path.parent), cache=shared_cache, wheels=wheels)
    assert (done.returncode, done.stderr) == (0, "")
    assert "7 packages" in done.stdout
    assert "7/7" in done.stdout
    one = await models.host.add(manifest.read(path))
    prefix, name = await models.call(one, {})
    assert (Path(prefix).parent, name) == (shared_cache / "penstock" / "environments", "greeting")
    assert sorted(file.name.partition("-")[0] for file in Path(prefix).glob("lib/*/site-packages/*.dist-info")) == [
        "annotated_types", "greeting", "msgspec", "pydantic", "pydantic_core", "typing_extensions", "typing_inspection",
    ]  # fmt: skip
    assert Path(prefix).stat().st_mode & 0o777 == 0o777 & ~umask()
    assert run(f"{prefix}/bin/greet") == "good day\n"  # its first line names the folder's final path


def test_models_with_the_same_packages_share_an_environment(shared_cache: Path, wheels: Wheels, tmp_path: Path) -> None:
    """Comments do not matter. An environment that is there is not made again."""
    for name in ("a", "b"):
        write_model(tmp_path / "models" / name, f"# of {name}\n" + wheels.lock("greeting"))
    done = command("model", "install", cache=shared_cache, wheels=wheels, PENSTOCK_MODELS_DIR=str(tmp_path / "models"))
    assert done.returncode == 0
    again = command(
        "model", "install", "b", cache=shared_cache, wheels=wheels, PENSTOCK_MODELS_DIR=str(tmp_path / "models")
    )
    assert "b: requirements.lock is installed already" in again.stdout
    assert len([folder for folder in (shared_cache / "penstock" / "environments").iterdir() if folder.is_dir()]) == 1


def test_another_lock_file_is_another_environment(cache: Path, wheels: Wheels, tmp_path: Path) -> None:
    """A model of a changed lock file is another one, so that a host puts it in place of the present one."""
    path = write_model(tmp_path / "models" / "polite", wheels.lock("greeting"))
    folder = ModelsFolder(ManifestFiles(root=tmp_path / "models"))
    folder.scan()
    before = folder.models[None, "polite", "1"]
    lock = path.with_name("requirements.lock")
    lock.write_text(wheels.lock())
    assert folder.concerns_manifests(lock)
    folder.scan()
    after = folder.models[None, "polite", "1"]
    assert before.environments[0].key != after.environments[0].key
    assert before.fingerprint != after.fingerprint


def test_the_first_alternative_that_is_installed_is_used(shared_cache: Path, wheels: Wheels, tmp_path: Path) -> None:
    path = write_model(tmp_path / "polite", wheels.lock("greeting", "torn"))
    path.with_name("small.lock").write_text(wheels.lock("greeting"))
    path.write_text(path.read_text().replace('"requirements.lock"', '["requirements.lock", "small.lock"]'))
    unknown = command("model", "install", str(path), "--lock", "large.lock", cache=shared_cache, wheels=wheels)
    assert "requirements.lock, small.lock" in unknown.stderr
    done = command("model", "install", str(path), "--lock", "small.lock", cache=shared_cache, wheels=wheels)
    assert done.returncode == 0, done.stderr
    model = manifest.read(path)
    assert interpreter(model) == str(model.environments[1].python)
    again = command("model", "install", str(path), cache=shared_cache, wheels=wheels)
    assert "small.lock is installed already" in again.stdout


def test_a_failed_install_leaves_nothing(cache: Path, wheels: Wheels, tmp_path: Path) -> None:
    one = locked(tmp_path, wheels.lock("greeting", "torn"))
    with pytest.raises(CannotStart, match=r"(?s)pip could not install the packages.*not-there"):
        install(one)
    assert not whole(one)
    assert [file.name for file in environment.root().iterdir()] == [f"{one.key}.lock"]


def test_a_file_that_is_not_the_locked_one_is_refused(cache: Path, wheels: Wheels, tmp_path: Path) -> None:
    content = wheels.lock("greeting")
    digest = content.partition("sha256:")[2][:64]
    one = locked(tmp_path, content.replace(digest, "0" * 64))
    with pytest.raises(CannotStart, match=r"(?s)pip could not install.*HASHES|hashes"):
        install(one)
    assert not whole(one)


def test_an_index_that_cannot_be_reached_is_reported(
    cache: Path, wheels: Wheels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "0")
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:1/simple")
    one = locked(tmp_path, wheels.lock("greeting"))
    with pytest.raises(CannotStart, match=r"the package index cannot be reached.*PIP_FIND_LINKS"):
        install(one)


async def test_two_installs_at_once_make_one_environment(cache: Path, wheels: Wheels, tmp_path: Path) -> None:
    """The second one says that it waits, and finds the environment of the first."""
    one = locked(tmp_path, wheels.lock())
    lines: list[str] = []
    environment.root().mkdir(parents=True)
    with held(one.key, before_waiting=raise_busy):
        both = [asyncio.create_task(asyncio.to_thread(installing.install, one, report=lines.append)) for _ in range(2)]
        await until(lambda: sum("waiting for it" in line for line in lines) == 2, "both wait")
    assert sorted(await asyncio.gather(*both)) == [False, True]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
async def test_an_interrupted_install_leaves_nothing_that_is_taken_for_whole(
    number: signal.Signals, cache: Path, wheels: Wheels, tmp_path: Path
) -> None:
    """After a kill that cannot be handled, the next install removes what was left."""
    path = write_model(tmp_path / "polite", wheels.lock("greeting"))
    async with silent_server() as (port, connected):
        process = await asyncio.create_subprocess_exec(
            *(*PENSTOCK, "model", "install", str(path)),
            env=clean_environment(
                XDG_CACHE_HOME=str(cache), PIP_CONFIG_FILE="/dev/null", PIP_INDEX_URL=f"http://127.0.0.1:{port}/"
            ),
        )
        try:
            await within(connected.wait(), 60)  # pip waits for the index
            process.send_signal(number)
            await within(process.wait(), 60)
        finally:
            with suppress(ProcessLookupError):
                process.kill()
    one = manifest.read(path).environments[0]
    assert not whole(one)
    assert bool(list(environment.root().glob("*.part"))) is (number == signal.SIGKILL)
    if number == signal.SIGKILL:
        await asyncio.to_thread(install, one)
        assert whole(one)
        assert not list(environment.root().glob("*.part"))


@asynccontextmanager
async def silent_server() -> AsyncIterator[tuple[int, asyncio.Event]]:
    """Run a server that accepts connections and sends nothing."""
    connected, over = asyncio.Event(), asyncio.Event()

    async def accept(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connected.set()
        await over.wait()
        writer.close()

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1], connected
    finally:
        over.set()
        server.close()


def test_a_record_whose_python_is_gone_is_not_an_environment(cache: Path, wheels: Wheels, tmp_path: Path) -> None:
    """After an upgrade of the system, links into the old Python lead nowhere."""
    one = locked(tmp_path, wheels.lock())
    (one.folder / "bin").mkdir(parents=True)
    (one.folder / environment.RECORD).write_text("{}")
    one.python.symlink_to(tmp_path / "no-python")
    assert not whole(one)
    install(one)
    assert whole(one)


async def test_old_environments_are_listed_and_removed(
    models: Models, cache: Path, wheels: Wheels, tmp_path: Path
) -> None:
    """Neither one that was used a while ago nor one in which a replica runs is removed."""
    path = write_model(tmp_path / "polite", wheels.lock("greeting"))
    used = manifest.read(path).environments[0]
    install(used)
    old = locked(tmp_path, "old==1 --hash=sha256:0")
    recent = locked(tmp_path, "recent==1 --hash=sha256:0")
    for one, days in ((old, 31), (recent, 29), (used, 31)):
        record = one.folder / environment.RECORD
        if one is not used:
            record.parent.mkdir()
            record.write_text(json.dumps({"lock": "x", "packages": 1, "installed_at": "2026-01-01T00:00:00Z"}))
        os.utime(record, (time.time() - days * 86400,) * 2)
    (environment.root() / f"{old.key}.rest.part").mkdir()
    deployment = await models.host.add(manifest.read(path))
    await deployment.load()
    os.utime(used.folder / environment.RECORD, (0, 0))
    listed = json.loads(command("model", "install", "--list", cache=cache, wheels=wheels).stdout)
    assert {one["key"]: one["in_use"] for one in listed} == {
        used.key: True, old.key: False, recent.key: False, f"{old.key}.rest.part": False,
    }  # fmt: skip
    removed = json.loads(command("model", "install", "--prune", cache=cache, wheels=wheels).stdout)
    assert {one["key"] for one in removed} == {old.key, f"{old.key}.rest.part"}
    assert {folder.name for folder in environment.root().iterdir() if folder.is_dir()} == {used.key, recent.key}


def test_one_that_is_being_installed_is_not_removed(cache: Path, wheels: Wheels, tmp_path: Path) -> None:
    environment.root().mkdir(parents=True)
    (environment.root() / "abc.x.part").mkdir()
    with held("abc", before_waiting=raise_busy):
        assert records.prune(unused_for=timedelta(0)) == []
    assert [one.key for one in records.prune(unused_for=timedelta(0))] == ["abc.x.part"]


def test_one_that_is_used_after_it_was_listed_is_not_removed(cache: Path, tmp_path: Path) -> None:
    one = locked(tmp_path, "old==1 --hash=sha256:0")
    one.folder.mkdir(parents=True)
    record = one.folder / environment.RECORD
    record.write_text(json.dumps({"lock": "x", "packages": 1, "installed_at": "2026-01-01T00:00:00Z"}))
    os.utime(record, (0, 0))
    (listed,) = records.installed()
    assert listed.used_at is not None
    since = listed.used_at + timedelta(days=1)
    one.note_use()
    assert not records.remove(listed.key, unused_since=since)
    assert record.exists()
    os.utime(record, (0, 0))
    assert records.remove(listed.key, unused_since=since)
    assert not one.folder.exists()


def test_use_is_noted(shared_cache: Path, wheels: Wheels, tmp_path: Path) -> None:
    path = write_model(tmp_path / "polite", wheels.lock("greeting"))
    model = manifest.read(path)
    install(model.environments[0])
    record = model.environments[0].folder / environment.RECORD
    os.utime(record, (0, 0))
    interpreter(model)
    assert record.stat().st_mtime > 0


@pytest.mark.parametrize(
    ("content", "mistake"),
    [
        ("", "must name packages"),
        ("# nothing\n", "must name packages"),
        ("a==1", "line 1: 'a==1' has no hash"),
        (
            "b==1 --hash=sha256:00\n\na>=1 --hash=sha256:00",
            "line 3: 'a>=1 --hash=sha256:00' must be a package with its",
        ),
        ("--index-url https://example.org/simple", "is an option of pip. A lock file holds packages only"),
        ("-r other.txt", "is an option of pip"),
        ("a @ https://example.org/a.whl --hash=sha256:00", "must be a package with its version"),
        ("a==1 \\\n    --hash=sha256:00 --global-option=x", "must be a package with its version"),
        ("\ufeff".encode("utf-16"), "must be text in UTF-8"),
        (b"a" * (2**20 + 1), "must have at most 1048576 bytes"),
        (None, "cannot be read: No such file"),
    ],
)
def test_mistakes_in_a_lock_file(content: str | bytes | None, mistake: str, wheels: Wheels, tmp_path: Path) -> None:
    path = write_model(tmp_path / "polite", wheels.lock())
    lock = path.with_name("requirements.lock")
    lock.unlink()
    if content is not None:
        lock.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InvalidInput) as caught:
        manifest.read(path)
    (problem,) = caught.value.problems
    assert problem.field == "python.environment"
    assert problem.detail.startswith("requirements.lock: ")
    assert mistake in problem.detail


def test_a_pipe_in_place_of_a_lock_file_is_refused(wheels: Wheels, tmp_path: Path) -> None:
    """Reading it would wait for a writer."""
    path = write_model(tmp_path / "polite", wheels.lock())
    path.with_name("requirements.lock").unlink()
    os.mkfifo(path.with_name("requirements.lock"))
    with pytest.raises(InvalidInput, match="must be a regular file"):
        manifest.read(path)


@pytest.mark.parametrize(
    ("stated", "mistake"),
    [
        ({"environment": 3}, "must be the name of a lock file, or a list of such names"),
        ({"environment": []}, "must be the name of a lock file, or a list of such names"),
        ({"environment": "x.lock", "interpreter": sys.executable}, "cannot be combined with interpreter"),
    ],
)
def test_mistakes_in_a_manifest(stated: dict[str, object], mistake: str, tmp_path: Path) -> None:
    whole = {"name": "m", "runtime": "python", "python": {"class": "m:M", **stated}}
    with pytest.raises(InvalidInput) as caught:
        manifest.check(whole, folder=tmp_path, source="folder")
    assert [problem.field for problem in caught.value.problems] == ["python.environment"]
    assert mistake in caught.value.problems[0].detail


def test_what_a_replica_needs_is_added_unless_the_lock_file_names_it() -> None:
    """Names are compared in their normal form; lines for other platforms stay."""
    needed = lock_file.pins(b"msgspec==1 --hash=sha256:00\ntyping-extensions==2 --hash=sha256:00")
    pinned = lock_file.pins(
        b"Typing_Extensions==1 ; sys_platform == 'linux' --hash=sha256:00 \\\n  --hash=sha256:11\n"
        b"numpy[all]==2.1.0+cpu --hash=sha256:00  # for sums\n"
    )
    assert [pin.name for pin in pinned] == ["typing-extensions", "numpy"]
    assert [pin.text for pin in lock_file.missing(needed, pinned)] == ["msgspec==1 --hash=sha256:00"]


def test_penstocks_own_lock_file_of_replicas_is_complete(tmp_path: Path) -> None:
    """It pins what a replica imports."""
    lock = tmp_path / "requirements.lock"
    lock.write_text("greeting==1 --hash=sha256:00")
    requirements = environment.of_lock(lock).requirements
    assert {line.partition("==")[0] for line in requirements.splitlines()} == {"greeting", *REPLICA}
