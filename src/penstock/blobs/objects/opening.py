"""Open the store of objects that a URL names. This connects to nothing and creates nothing."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from penstock.blobs.objects.contract import ObjectStore
from penstock.blobs.objects.database import DatabaseObjects
from penstock.blobs.objects.folder import FolderObjects
from penstock.errors import FieldProblem, SettingsError
from penstock.postgres.pool import Database
from penstock.settings.blobs import BlobSettings, folder_of

if TYPE_CHECKING:
    from obstore.store import AzureConfig, AzureStore, ClientConfig, GCSConfig, GCSStore, RetryConfig, S3Config, S3Store

_CONNECT: Final = timedelta(seconds=5)
_REQUEST: Final = timedelta(seconds=60)  # of one part or range
_RETRIES: Final = 5


def open_store(url: str, settings: BlobSettings, database: Database) -> ObjectStore:
    """Return the store at a URL that the settings allow. Raises SettingsError for credentials that cannot be used."""
    if url == "postgres":
        return DatabaseObjects(database)
    folder = folder_of(url)
    return FolderObjects(folder) if folder is not None else _bucket(url, settings)


def _bucket(url: str, settings: BlobSettings) -> ObjectStore:
    # Imported here, because only installations with a bucket need it.
    from obstore.exceptions import BaseError  # noqa: PLC0415

    from penstock.blobs.objects.bucket import BucketObjects  # noqa: PLC0415

    try:
        return BucketObjects(_client(url, settings), url)
    except (BaseError, ValueError) as error:  # the first line states the reason without any value of a secret
        detail = f"cannot be used with the credentials of this environment: {str(error).partition(chr(10))[0]}"
        raise SettingsError([FieldProblem(field="PENSTOCK_BLOB_URL", detail=detail)]) from None


def _client(url: str, settings: BlobSettings) -> S3Store | GCSStore | AzureStore:
    from obstore.store import AzureStore, GCSStore, S3Store  # noqa: PLC0415

    parts = urlsplit(url)
    prefix = parts.path.strip("/") or None
    endpoint = settings.penstock_blob_endpoint
    client: ClientConfig = {
        "connect_timeout": _CONNECT,
        "timeout": _REQUEST,
        "allow_http": (endpoint or "").startswith("http:"),
    }
    retry: RetryConfig = {"max_retries": _RETRIES, "retry_timeout": _REQUEST}
    match parts.scheme:
        case "s3":
            return S3Store(parts.netloc, prefix=prefix, config=_s3(settings), client_options=client, retry_config=retry)
        case "gs":
            gcs: GCSConfig = {"base_url": endpoint} if endpoint else {}
            return GCSStore(parts.netloc, prefix=prefix, config=gcs, client_options=client, retry_config=retry)
        case _:
            azure: AzureConfig = {"endpoint": endpoint} if endpoint else {}
            return AzureStore(parts.netloc, prefix=prefix, config=azure, client_options=client, retry_config=retry)


def _s3(settings: BlobSettings) -> S3Config:
    config: S3Config = {"region": settings.aws_region_name}
    if settings.penstock_blob_endpoint is not None:
        config["endpoint"] = settings.penstock_blob_endpoint
        config["virtual_hosted_style_request"] = False
    if settings.aws_access_key is not None and settings.aws_secret_key is not None:
        config["access_key_id"] = settings.aws_access_key.reveal()
        config["secret_access_key"] = settings.aws_secret_key.reveal()
    return config
