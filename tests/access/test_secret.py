"""The secret of an installation: derived keys, encrypted values, and the file that holds it."""

from __future__ import annotations

import hashlib
import hmac
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from penstock.access.secret import CannotUnseal, InstanceSecret, Secrets
from penstock.access.secret_file import SecretSource
from penstock.errors import CannotStart
from penstock.masking import Secret
from tests.support.gateways import running_gateway
from tests.support.waiting import until

TEXT = InstanceSecret(bytes(range(32))).text()


def test_derived_keys_follow_rfc_5869() -> None:
    raw = bytes(range(32))
    extracted = hmac.new(bytes(32), raw, hashlib.sha256).digest()
    expected = hmac.new(extracted, b"penstock api-key\x01", hashlib.sha256).digest()
    assert InstanceSecret(raw).derive("api-key") == expected


def test_keys_of_different_purposes_differ() -> None:
    secret = InstanceSecret.generate()
    assert len({secret.derive(purpose) for purpose in ("api-key", "seal", "ticket")}) == 3


@pytest.mark.parametrize("text", [TEXT, TEXT + "=", bytes(range(32)).hex(), f"  {TEXT}\n"])
def test_a_secret_is_read_from_base64_and_hexadecimal(text: str) -> None:
    assert InstanceSecret.parse(text).id == InstanceSecret(bytes(range(32))).id


@pytest.mark.parametrize("text", ["", "short", "é" * 43, TEXT[:-1], TEXT + "AA", "g" * 64])
def test_texts_that_are_not_secrets_are_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(ValueError, match="32 bytes") as caught:
        InstanceSecret.parse(text)
    assert not text or text not in str(caught.value)


def test_a_sealed_value_opens_at_its_place_only() -> None:
    secret = InstanceSecret.generate()
    sealed = secret.seal(b"sk-123", place="provider:openai")
    assert b"sk-123" not in sealed
    assert secret.unseal(sealed, place="provider:openai") == b"sk-123"
    assert secret.seal(b"sk-123", place="provider:openai") != sealed, "each value has a nonce of its own"
    for holder, text, place in (
        (secret, sealed, "provider:other"),
        (InstanceSecret.generate(), sealed, "provider:openai"),
        (secret, sealed[:-1], "provider:openai"),
        (secret, b"", "provider:openai"),
    ):
        with pytest.raises(CannotUnseal):
            holder.unseal(text, place=place)


def test_the_file_is_made_once_and_read_by_its_owner_only(tmp_path: Path) -> None:
    sources = [SecretSource(None, tmp_path / "data") for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda source: source.get().current.id, sources))
    assert len(set(found)) == 1, "processes that start at the same time agree"
    file = tmp_path / "data" / "secret.key"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [path.name for path in file.parent.iterdir()] == ["secret.key"]


def test_a_file_that_others_can_read_is_refused(tmp_path: Path) -> None:
    SecretSource(None, tmp_path).get()
    (tmp_path / "secret.key").chmod(0o644)
    with pytest.raises(CannotStart, match="chmod 600"):
        SecretSource(None, tmp_path).get()


def test_a_folder_that_cannot_be_written_names_the_setting(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CannotStart, match="PENSTOCK_SECRET_KEY"):
        SecretSource(None, tmp_path / "file").get()


def test_a_rotation_is_seen_on_reload(tmp_path: Path) -> None:
    source, other = SecretSource(None, tmp_path), SecretSource(None, tmp_path)
    first = source.get().current
    other.write(Secrets(InstanceSecret.generate(), other.get().current))
    assert source.get().previous is None
    assert source.reload().previous is not None
    assert source.get().get(first.id) is not None
    assert stat.S_IMODE(source.path.stat().st_mode) == 0o600


def test_two_secrets_may_be_stated() -> None:
    new = InstanceSecret.generate()
    secrets = SecretSource(Secret(f"{new.text()},{TEXT}"), Path("unused")).get()
    assert secrets.current.id == new.id
    assert secrets.previous is not None


async def test_a_secret_that_is_slow_to_read_blocks_no_other_request(database_url: str, tmp_path: Path) -> None:
    """The file is read again when a key changes. It may lie on a slow network drive; here it is a pipe."""
    async with running_gateway(database_url, penstock_secret_key=None, penstock_data_dir=tmp_path) as caller:
        key = (await caller.post("/keys", {"name": "first", "scopes": ["operator"]})).json["key"]
        acting = {"Authorization": f"Bearer {key}"}
        assert (await caller.call("GET", "/jobs", headers=acting)).status == 200
        file = tmp_path / "secret.key"
        content = file.read_bytes()
        file.unlink()
        os.mkfifo(file, 0o600)
        made = await caller.call("POST", "/keys", {"name": "second", "scopes": ["jobs:read"]}, headers=acting)
        assert made.status == 201, made.body
        writer = -1

        def is_read() -> bool:
            nonlocal writer
            with suppress(OSError):  # until the gateway has opened the pipe to read it
                writer = os.open(file, os.O_WRONLY | os.O_NONBLOCK)
            return writer >= 0

        await until(is_read, "the gateway reads its secret")
        try:
            assert (await caller.call("GET", "/jobs", headers=acting)).status == 200
            os.write(writer, content)
        finally:
            os.close(writer)
