"""The calls of ``Client`` about blobs: files that the gateway keeps until they expire."""

from __future__ import annotations

import asyncio
import hashlib
import io
import mimetypes
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import IO, Final
from urllib.parse import urljoin
from uuid import UUID

import aiohttp
import msgspec

from penstock.blobs.blob import Blob
from penstock.client.transport import Transport, error_of
from penstock.client.views import MediaFile
from penstock.errors import ServiceError

_BLOBS: Final = "/api/v1/blobs"
_UNKNOWN: Final = "application/octet-stream"
_TIMEOUT: Final = aiohttp.ClientTimeout(total=None, sock_connect=10)  # no limit, because a large file may take long
_PIECE: Final = 2**18  # bytes
_UPLOADS: Final = "/api/v1/uploads"
_PART_WAIT: Final = 300.0  # seconds for one part
_COMPLETING: Final = 3600.0  # seconds for the gateway to join the parts
PART_BYTES: Final = 16 * 2**20  # of an upload in parts


class _SignedUrl(msgspec.Struct):
    url: str  # without a host, it is relative to the gateway's address


class _Part(msgspec.Struct):
    number: int
    sha256: str


class _Upload(msgspec.Struct):
    id: UUID
    parts: list[_Part]


class BlobCalls:
    """The calls of ``Client`` about blobs."""

    _transport: Transport

    async def upload(
        self, file: Path | str | bytes, media_type: str | None = None, *, filename: str | None = None
    ) -> Blob:
        """Upload a file, given as a path or as bytes. It is not repeated when the connection breaks.

        The media type is guessed from the file's name if none is given.
        """
        if isinstance(file, bytes):
            return await self._put(io.BytesIO(file), media_type, filename)
        path = Path(file)
        content = await asyncio.to_thread(path.open, "rb")
        with content:
            return await self._put(content, media_type, filename or path.name)

    async def upload_in_parts(
        self,
        file: Path | str,
        media_type: str | None = None,
        *,
        filename: str | None = None,
        part_bytes: int = PART_BYTES,
        upload_id: UUID | str | None = None,
        on_begin: Callable[[UUID], None] = lambda _: None,
    ) -> Blob:
        """Upload a file in parts. While the gateway cannot be reached, a part is sent again for a while.

        ``on_begin`` gets the id of the upload. With that id and the same ``part_bytes``, an upload that ended early
        is continued: parts that have arrived with the same bytes are not sent again.
        """
        path = Path(file)
        with await asyncio.to_thread(path.open, "rb") as content:
            if upload_id is None:
                kind = media_type or mimetypes.guess_type(path.name)[0] or _UNKNOWN
                begin = {"media_type": kind, "filename": filename or path.name}
                upload = await self._transport.call("POST", _UPLOADS, _Upload, body=begin, repeatable=False)
                on_begin(upload.id)
            else:
                upload = await self._transport.call("GET", f"{_UPLOADS}/{UUID(str(upload_id))}", _Upload)
            sha256 = await self._send_parts(content, upload, part_bytes)
        return await self._transport.call(
            "POST", f"{_UPLOADS}/{upload.id}/complete", Blob, body={"sha256": sha256}, wait=_COMPLETING
        )

    async def _send_parts(self, content: IO[bytes], upload: _Upload, part_bytes: int) -> str:
        """Send the parts that have not arrived yet, and return the SHA-256 of all bytes."""
        arrived = {part.number: part.sha256 for part in upload.parts}
        whole = hashlib.sha256()
        number = 0
        while data := await asyncio.to_thread(content.read, part_bytes):
            number += 1
            whole.update(data)
            if arrived.get(number) != hashlib.sha256(data).hexdigest():
                await self._transport.call(
                    "PUT",
                    f"{_UPLOADS}/{upload.id}/parts/{number}",
                    _Part,
                    content=data,
                    headers={"Content-Type": _UNKNOWN},
                    wait=_PART_WAIT,
                )
        return whole.hexdigest()

    async def download(self, blob_id: UUID | str) -> MediaFile:
        """Return a whole blob with its bytes; raises NotFound."""
        known = await self.blob(blob_id)
        data = b"".join([piece async for piece in self.download_pieces(blob_id)])
        return MediaFile(data=data, media_type=known.media_type, name=known.filename)

    async def download_pieces(self, blob_id: UUID | str) -> AsyncIterator[bytes]:
        """Yield a blob's bytes as they arrive, for blobs too large to hold in memory."""
        with self._unreachable():
            async with self._transport.session().get(self._url(blob_id), timeout=_TIMEOUT) as response:
                if response.status != 200:
                    raise error_of(response.status, await response.read(), response.headers)
                async for piece in response.content.iter_chunked(_PIECE):
                    yield piece

    async def blob(self, blob_id: UUID | str) -> Blob:
        """Return a blob's description; raises NotFound."""
        return await self._transport.call("GET", f"{_BLOBS}/{UUID(str(blob_id))}/info", Blob)

    async def blob_url(self, blob_id: UUID | str, *, ttl: timedelta = timedelta(hours=1)) -> str:
        """Return a URL from which anyone may download the blob, without a key, for ``ttl``; raises NotFound."""
        path = f"{_BLOBS}/{UUID(str(blob_id))}/url?ttl={int(ttl.total_seconds())}"
        found = await self._transport.call("GET", path, _SignedUrl)
        return urljoin(f"{self._transport.url}/", found.url)

    async def delete_blob(self, blob_id: UUID | str) -> None:
        """Delete a blob; raises NotFound."""
        await self._transport.call("DELETE", f"{_BLOBS}/{UUID(str(blob_id))}", object, repeatable=False)

    async def _put(self, content: IO[bytes], media_type: str | None, filename: str | None) -> Blob:
        kind = media_type or mimetypes.guess_type(filename or "")[0] or _UNKNOWN
        with self._unreachable():
            async with self._transport.session().post(
                self._transport.url + _BLOBS,
                data=content,
                params={} if filename is None else {"filename": filename},
                headers={"Content-Type": kind},
                timeout=_TIMEOUT,
            ) as response:
                body = await response.read()
                if response.status != 201:
                    raise error_of(response.status, body, response.headers)
        try:
            return msgspec.json.decode(body, type=Blob)
        except msgspec.MsgspecError as error:
            raise ServiceError(f"this client does not understand the response: {error}") from error

    def _url(self, blob_id: UUID | str) -> str:
        return f"{self._transport.url}{_BLOBS}/{UUID(str(blob_id))}"

    @contextmanager
    def _unreachable(self) -> Iterator[None]:
        """Raise Unreachable when a connection cannot be made, or breaks, within the block."""
        try:
            yield
        except (aiohttp.ClientError, OSError) as error:
            raise self._transport.unreachable(error) from error
