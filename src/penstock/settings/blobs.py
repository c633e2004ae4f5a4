"""Settings of files: where uploads are kept, and files fetched from URLs."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from penstock.masking import Secret
from penstock.settings.kinds import (
    KIBIBYTE,
    MEBIBYTE,
    flag,
    header_secret,
    http_url,
    integer,
    network,
    several,
    short_text,
)
from penstock.settings.variable import Known, Relation, setting

POSTGRES: Final = "postgres"  # the URL of PostgreSQL as a store
MAX_BLOB: Final = 48 * 2**30  # bytes: what 10,000 parts of an upload to S3 hold

_BUCKETS: Final = ("s3", "gs", "az")
_BUCKET: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,62}")
_PREFIX: Final = re.compile(r"(?:/[A-Za-z0-9_][A-Za-z0-9._-]*)*/?")
_ALLOWED: Final = (
    "must be postgres, file:///FOLDER, s3://BUCKET/PREFIX, gs://BUCKET/PREFIX or az://CONTAINER/PREFIX, "
    "without a password, query or fragment"
)


def folder_of(url: str) -> Path | None:
    """Return the folder of a ``file:`` URL; None for other URLs."""
    parts = urlsplit(url)
    return Path(unquote(parts.path)) if parts.scheme == "file" else None


def store_url(value: object) -> str:
    """The URL of a store of files."""
    given = value.strip() if isinstance(value, str) else ""
    try:
        parts = urlsplit(given)
    except ValueError:
        raise ValueError(_ALLOWED) from None
    if given == POSTGRES:
        return given
    if parts.query or parts.fragment or "\0" in unquote(given):
        raise ValueError(_ALLOWED)
    if parts.scheme == "file" and not parts.netloc and parts.path.startswith("/") and parts.path != "/":
        folder = Path(unquote(parts.path))
        if ".." in folder.parts:
            raise ValueError(_ALLOWED)
        return folder.as_uri()
    if parts.scheme in _BUCKETS and _BUCKET.fullmatch(parts.netloc) and _PREFIX.fullmatch(parts.path):
        return given.rstrip("/")
    raise ValueError(_ALLOWED)


def _store(known: Known) -> str:
    """`blobs` in PENSTOCK_DATA_DIR; with a DATABASE_URL, which several hosts may share: `postgres`."""
    folder = known.get("penstock_data_dir")
    if known.get("database_url") is not None or folder is None:
        return POSTGRES
    return (Path(folder).absolute() / "blobs").as_uri()


@dataclass(frozen=True, kw_only=True, repr=False)
class BlobSettings:
    """Files."""

    penstock_blob_url: str = setting(
        store_url,
        derived=_store,
        meaning="where larger files are kept: `file:///FOLDER`, which every host must see, `s3://BUCKET/PREFIX`, "
        "`gs://BUCKET/PREFIX`, `az://CONTAINER/PREFIX`, or `postgres`",
    )
    penstock_blob_previous_urls: tuple[str, ...] = setting(
        several(store_url), (), "stores that still hold files, until `penstock blob migrate` has moved them"
    )
    penstock_blob_endpoint: str | None = setting(
        http_url, None, "server of the bucket's protocol; unset: the cloud's own"
    )
    penstock_blob_inline_bytes: int = setting(
        integer(0, 16 * MEBIBYTE), MEBIBYTE, "files up to this size are kept in PostgreSQL, whatever the store"
    )
    penstock_blob_presign: bool = setting(
        flag, True, "signed URLs of files in a bucket lead to the bucket; false: to the gateway, which reads it"
    )
    penstock_result_media_bytes: int = setting(
        integer(KIBIBYTE, 16 * MEBIBYTE),
        256 * KIBIBYTE,
        "larger media in the result of a predict job are kept as files, which it names as `blob:ID`",
    )
    aws_region_name: str = setting(short_text(100), "us-east-1", "region of an S3 bucket")
    aws_access_key: Secret | None = setting(
        header_secret,
        None,
        "access key of an S3 bucket; unset: found the way AWS tools do, for example by the role of the host",
    )
    aws_secret_key: Secret | None = setting(header_secret, None, "secret key that belongs to it")
    penstock_max_blob_bytes: int = setting(
        integer(KIBIBYTE, MAX_BLOB), 256 * MEBIBYTE, "largest uploaded file, and largest recording fetched from a URL"
    )
    penstock_fetch_networks: tuple[str, ...] = setting(
        several(network),
        (),
        "private networks that URLs in jobs, callbacks, and models of tenants may lead to, such as 10.2.0.0/16; "
        "public addresses are always allowed",
    )


def _both_keys(access: Secret | None, secret: Secret | None) -> str | None:
    if (access is None) == (secret is None):
        return None
    return "AWS_ACCESS_KEY and AWS_SECRET_KEY must be set together"


def _has_server(endpoint: str | None, url: str, previous: tuple[str, ...]) -> str | None:
    if endpoint is None or any(urlsplit(one).scheme in _BUCKETS for one in (url, *previous)):
        return None
    return "is the server of a bucket: it needs a PENSTOCK_BLOB_URL such as s3://BUCKET"


def _each_once(url: str, previous: tuple[str, ...]) -> str | None:
    if url in previous or len(set(previous)) < len(previous):
        return "must name other stores than PENSTOCK_BLOB_URL, and each only once"
    return None


RELATIONS: Final = (
    Relation(blames="aws_secret_key", over=("aws_access_key", "aws_secret_key"), problem=_both_keys),
    Relation(
        blames="penstock_blob_endpoint",
        over=("penstock_blob_endpoint", "penstock_blob_url", "penstock_blob_previous_urls"),
        problem=_has_server,
    ),
    Relation(
        blames="penstock_blob_previous_urls",
        over=("penstock_blob_url", "penstock_blob_previous_urls"),
        problem=_each_once,
    ),
)
