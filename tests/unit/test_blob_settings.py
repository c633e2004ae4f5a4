"""The settings of the store of files: what is allowed, what is refused together, and what is never shown."""

from __future__ import annotations

from pathlib import Path

import pytest

from penstock.blobs.objects.opening import open_store
from penstock.errors import SettingsError
from penstock.postgres.pool import Database
from penstock.settings import Settings, load_settings

KEYS = {"AWS_ACCESS_KEY": "AKIAIOSFODNN7EXAMPLE", "AWS_SECRET_KEY": "wJalrXUtnFEMI/K7MDENG"}


def loaded(monkeypatch: pytest.MonkeyPatch, **variables: str) -> Settings:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return load_settings(None)


@pytest.mark.parametrize(
    ("stated", "kept"),
    [
        ("postgres", "postgres"),
        ("file:///srv/files", "file:///srv/files"),
        ("file:///srv/my%20files/", "file:///srv/my%20files"),
        ("s3://bucket", "s3://bucket"),
        ("s3://my.bucket-1/some/prefix/", "s3://my.bucket-1/some/prefix"),
        ("gs://bucket/prefix", "gs://bucket/prefix"),
        ("az://container", "az://container"),
    ],
)
def test_the_url_of_a_store(monkeypatch: pytest.MonkeyPatch, stated: str, kept: str) -> None:
    assert loaded(monkeypatch, PENSTOCK_BLOB_URL=stated).penstock_blob_url == kept


@pytest.mark.parametrize(
    "stated",
    [
        *("s3://", "s3:bucket", "s3://key:secret@bucket", "s3://bucket?region=x", "s3://bucket#x", "s3://bucket/../x"),
        *("s3://bucket//x", "s3://bucket/.hidden", "file://host/x", "file:///", "file:relative", "file:///a/../b"),
        *("file:///a%00b", "http://bucket", "/srv/files", "ftp://x/y", "postgresql://x", "s3://[::1", "az://b/ü"),
    ],
)
def test_another_url_is_refused_without_being_repeated(monkeypatch: pytest.MonkeyPatch, stated: str) -> None:
    with pytest.raises(SettingsError) as refused:
        loaded(monkeypatch, PENSTOCK_BLOB_URL=stated)
    assert [problem.field for problem in refused.value.problems] == ["PENSTOCK_BLOB_URL"]
    assert "key:secret" not in refused.value.message
    assert "must be postgres, file:///FOLDER, s3://BUCKET/PREFIX" in refused.value.message


@pytest.mark.parametrize(
    ("variables", "field"),
    [
        ({"AWS_ACCESS_KEY": "a"}, "AWS_SECRET_KEY"),
        ({"AWS_SECRET_KEY": "a"}, "AWS_SECRET_KEY"),
        ({"PENSTOCK_BLOB_ENDPOINT": "http://minio:9000"}, "PENSTOCK_BLOB_ENDPOINT"),
        (
            {"PENSTOCK_BLOB_ENDPOINT": "http://minio:9000", "PENSTOCK_BLOB_URL": "file:///srv"},
            "PENSTOCK_BLOB_ENDPOINT",
        ),
        ({"PENSTOCK_BLOB_URL": "s3://bkt", "PENSTOCK_BLOB_PREVIOUS_URLS": "s3://bkt"}, "PENSTOCK_BLOB_PREVIOUS_URLS"),
        ({"PENSTOCK_BLOB_PREVIOUS_URLS": "s3://bkt, s3://bkt"}, "PENSTOCK_BLOB_PREVIOUS_URLS"),
        ({"PENSTOCK_BLOB_PREVIOUS_URLS": "nonsense"}, "PENSTOCK_BLOB_PREVIOUS_URLS"),
    ],
)
def test_combinations_that_cannot_work_are_refused(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], field: str
) -> None:
    with pytest.raises(SettingsError) as refused:
        loaded(monkeypatch, **variables)
    assert [problem.field for problem in refused.value.problems] == [field]


def test_the_default_is_a_folder_only_beside_an_embedded_database(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PENSTOCK_DATA_DIR", str(tmp_path))
    assert load_settings(None).penstock_blob_url == (tmp_path / "blobs").as_uri()
    assert loaded(monkeypatch, DATABASE_URL="postgresql://elsewhere/x").penstock_blob_url == "postgres"


def test_keys_are_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = loaded(monkeypatch, PENSTOCK_BLOB_URL="s3://bucket", **KEYS)
    for secret in KEYS.values():
        assert secret not in repr(settings)
        assert secret not in str(settings.masked())
        assert secret in settings.secret_values()


@pytest.mark.parametrize("url", ["gs://bucket/prefix", "az://container/prefix", "s3://bucket/prefix"])
async def test_a_store_of_each_cloud_can_be_opened(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """Nothing is connected."""
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "account")
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    settings = loaded(monkeypatch, PENSTOCK_BLOB_URL=url)
    database = Database("postgresql://127.0.0.1:1/none", application_name="test")
    assert open_store(url, settings, database).url == url


@pytest.mark.parametrize(
    ("url", "variables", "reason"),
    [
        ("az://container", {}, "Account must be specified"),
        ("gs://bucket", {"GOOGLE_APPLICATION_CREDENTIALS": "/nowhere.json"}, "/nowhere.json"),
        (
            "az://container",
            {"AZURE_STORAGE_ACCOUNT_NAME": "account", "AZURE_STORAGE_ACCOUNT_KEY": "my secret key!"},
            "Invalid Access Key",
        ),
    ],
)
async def test_credentials_that_cannot_be_used_are_refused_at_start(
    monkeypatch: pytest.MonkeyPatch, url: str, variables: dict[str, str], reason: str
) -> None:
    monkeypatch.delenv("AZURE_STORAGE_ACCOUNT_NAME", raising=False)
    settings = loaded(monkeypatch, PENSTOCK_BLOB_URL=url, **variables)
    database = Database("postgresql://127.0.0.1:1/none", application_name="test")
    with pytest.raises(SettingsError, match="PENSTOCK_BLOB_URL: cannot be used") as refused:
        open_store(url, settings, database)
    assert reason in refused.value.message
    assert "secret" not in refused.value.message
