"""TLS to PostgreSQL: what DATABASE_URL states is required, and a mistake is named. The server is a TLS server that
speaks PostgreSQL's protocol up to the handshake, because the embedded one has no TLS."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from penstock.errors import DatabaseUnavailable
from penstock.postgres.pool import Database
from tests.support.certificates import Authority, Issued


@asynccontextmanager
async def server(issued: Issued | None) -> AsyncIterator[int]:
    """Accept TLS with a certificate, or reject it."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(8)  # SSLRequest
        if issued is None:
            writer.write(b"N")
        else:
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            context.load_cert_chain(issued.certificate, issued.key)
            writer.write(b"S")
            with suppress(ssl.SSLError, OSError):
                await writer.start_tls(context)
        writer.close()

    running = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with running:
        yield running.sockets[0].getsockname()[1]


async def problem(port: int, query: str) -> str:
    database = Database(f"postgresql://u:hidden@127.0.0.1:{port}/d?{query}", application_name="tests", max_size=1)
    with pytest.raises(DatabaseUnavailable) as caught:
        await database.open()
    with pytest.raises(DatabaseUnavailable, match=caught.value.message[:20]):
        await database.connect()
    assert "hidden" not in caught.value.message
    return caught.value.message


async def test_certificates_that_are_not_accepted(tmp_path: Path) -> None:
    ours, others = Authority(tmp_path, "ours"), Authority(tmp_path, "others")
    full = f"sslmode=verify-full&sslrootcert={ours.file}"
    for issued, words in (
        (others.issue(), "unable to get local issuer certificate"),
        (ours.issue("elsewhere.example"), "not valid for '127.0.0.1'"),
        (ours.issue(expired=True), "certificate has expired"),
    ):
        async with server(issued) as port:
            said = await problem(port, full)
        assert said.startswith("The certificate of the database is not accepted: ")
        assert words in said
        assert "sslrootcert" in said


async def test_a_server_without_tls_is_not_used_plain(tmp_path: Path) -> None:
    authority = Authority(tmp_path, "ours")
    async with server(None) as port:
        for query in ("sslmode=require", f"sslmode=verify-full&sslrootcert={authority.file}"):
            said = await problem(port, query)
            assert said == "The database does not speak TLS, which sslmode in DATABASE_URL requires."


async def test_a_missing_file_is_named() -> None:
    async with server(None) as port:
        said = await problem(port, "sslmode=verify-ca&sslrootcert=/nowhere/ca.pem")
    assert said == "DATABASE_URL names a file as sslrootcert that cannot be read."
