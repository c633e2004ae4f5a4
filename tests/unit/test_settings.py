"""Settings: every variable with its default, all mistakes at once, and no secret ever shown."""

from __future__ import annotations

import re
from dataclasses import FrozenInstanceError
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock import durations
from penstock.errors import SettingsError
from penstock.masking import mask_url
from penstock.settings import Settings, load_settings
from penstock.settings.gateway import is_loopback

DOCUMENTED = {
    "HTTP_PORT": 8080,
    "DATABASE_URL": None,
    "MIGRATE_ON_START": True,
    "AI_SERVICE_TOKEN": None,
    "LLM_BASE_URL": None,
    "LLM_API_KEY": None,
    "LLM_MODEL": "qwen2.5-14b",
    "LLM_TIMEOUT": "5m",
    "TRANSCRIPTION_PROVIDERS": "whisperx",
    "WHISPERX_URL": None,
    "QWEN_AUDIO_BASE_URL": None,
    "QWEN_AUDIO_MODEL": "Qwen/Qwen2-Audio-7B-Instruct",
    "QWEN_AUDIO_API_KEY": None,
    "VOXTRAL_BASE_URL": None,
    "VOXTRAL_MODEL": "mistralai/Voxtral-Small-24B-2507",
    "VOXTRAL_API_KEY": None,
    "AUDIO_LLM_MAX_TOKENS": 4096,
    "WORKER_HTTP_HOST": "0.0.0.0",
    "WORKER_HTTP_PORT": 8081,
    "WORKER_POLL_INTERVAL": "2s",
    "WORKER_CLAIM_LIMIT": 4,
    "WORKER_LEASE_TIMEOUT": "15m",
    "PENSTOCK_RETENTION_DAYS": 30,
    "PENSTOCK_MAX_INPUT_BYTES": 2**20,
    "PENSTOCK_URL": "http://127.0.0.1:8080",
}


def load(monkeypatch: pytest.MonkeyPatch, **variables: str) -> Settings:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return load_settings(None)


def problems(monkeypatch: pytest.MonkeyPatch, **variables: str) -> dict[str, str]:
    with pytest.raises(SettingsError) as caught:
        load(monkeypatch, **variables)
    for value in variables.values():
        if len(value) > 5:
            assert value not in str(caught.value), "values are not echoed"
    return {problem.field: problem.detail for problem in caught.value.problems}


def test_the_documented_defaults() -> None:
    shown = load_settings(None).masked()
    assert {name: shown[name] for name in DOCUMENTED} == DOCUMENTED
    assert all(Settings.descriptions().values()), "each variable has a description"


def test_with_a_token_the_documented_host_applies(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load(monkeypatch, AI_SERVICE_TOKEN="s3cret-token").http_host == "0.0.0.0"


def test_without_a_token_only_loopback_is_listened_on(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load(monkeypatch).http_host == "127.0.0.1"
    for host in ("::1", "localhost", "127.0.0.2"):
        assert load(monkeypatch, HTTP_HOST=host).http_host == host


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.2.3.5", "penstock.example"])
def test_listening_elsewhere_without_a_token_names_both_ways_out(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    found = problems(monkeypatch, HTTP_HOST=host)
    assert list(found) == ["HTTP_HOST"]
    assert "set AI_SERVICE_TOKEN, or listen on 127.0.0.1" in found["HTTP_HOST"]


@pytest.mark.parametrize(
    "address",
    ["@[bad/db", "@host:port/db", "@host:99999/db", "@host:1:2/db", "@[::1/db", "/x@host/db", "@host:1,[bad/db"],
)
def test_an_address_that_the_driver_cannot_read_is_refused_without_its_password(
    monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    found = problems(monkeypatch, DATABASE_URL=f"postgresql://user:hunter22{address}")
    assert list(found) == ["DATABASE_URL"]
    assert "percent-encoded" in found["DATABASE_URL"]
    assert "hunter22" not in str(found)


@pytest.mark.parametrize(
    "address",
    [
        "host/db",
        "host:5432/db",
        "[::1]:5432/db",
        "h1:1,h2:2/db",
        "/db?host=/run/postgresql",
        "host",
        "[fe80::1%eth0]/db",
    ],
)
def test_every_form_of_address_that_the_driver_reads_is_accepted(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    for user in ("", "user@", "user:hunter%2F22@"):
        assert load(monkeypatch, DATABASE_URL=f"postgresql://{user}{address}").database_url is not None


def test_all_mistakes_are_reported_at_once_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    found = problems(
        monkeypatch,
        AI_SERVICE_TOKEN="with a space inside",
        HTTP_PORT="99999",
        DATABASE_URL="mysql://root:hunter22@host/db",
        MIGRATE_ON_START="perhaps",
        LLM_TIMEOUT="5",
        LLM_BASE_URL="ftp://models",
        TRANSCRIPTION_PROVIDERS="whisperx,wisperx",
        WORKER_LEASE_TIMEOUT="10ms",
        PENSTOCK_RETRY_BASE="1h",
        PENSTOCK_MAX_BATCH_BYTES="2048",
        PENSTOCK_LOG_LEVEL="loud",
    )
    assert set(found) == {
        "AI_SERVICE_TOKEN",
        "HTTP_PORT",
        "DATABASE_URL",
        "MIGRATE_ON_START",
        "LLM_TIMEOUT",
        "LLM_BASE_URL",
        "TRANSCRIPTION_PROVIDERS",
        "WORKER_LEASE_TIMEOUT",
        "PENSTOCK_RETRY_CAP",
        "PENSTOCK_MAX_BATCH_BYTES",
        "PENSTOCK_LOG_LEVEL",
    }
    assert "5m" in found["LLM_TIMEOUT"]
    assert "postgresql://" in found["DATABASE_URL"]
    assert "'debug', 'info', 'warning' or 'error'" in found["PENSTOCK_LOG_LEVEL"]


def test_related_ports_are_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    assert list(problems(monkeypatch, HTTP_PORT="9000", WORKER_HTTP_PORT="9000")) == ["WORKER_HTTP_PORT"]
    monkeypatch.setenv("WORKER_HTTP_PORT", "8998")
    assert list(problems(monkeypatch, PENSTOCK_WORKERS="4")) == ["PENSTOCK_WORKERS"]
    assert load(monkeypatch, PENSTOCK_WORKERS="2").penstock_workers == 2


def test_an_empty_value_means_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load(monkeypatch, AI_SERVICE_TOKEN="", HTTP_PORT="", DATABASE_URL="")
    assert (settings.ai_service_token, settings.http_port, settings.database_url) == (None, 8080, None)


def test_a_dotenv_file_is_read_and_the_environment_takes_precedence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / ".env"
    file.write_text("HTTP_PORT=9001\nWORKER_CLAIM_LIMIT=7 # a comment\nSOMETHING_ELSE=1\n")
    monkeypatch.setenv("HTTP_PORT", "9002")
    settings = load_settings(file)
    assert (settings.http_port, settings.worker_claim_limit) == (9002, 7)
    file.write_bytes(b"HTTP_PORT=\xff\xfe\n")
    with pytest.raises(SettingsError, match="cannot be read"):
        load_settings(file)


def test_providers_keep_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load(monkeypatch, TRANSCRIPTION_PROVIDERS="voxtral-small, whisperx")
    assert settings.transcription_providers == ("voxtral-small", "whisperx")


def test_audio_keys_fall_back_as_documented(monkeypatch: pytest.MonkeyPatch) -> None:
    def keys() -> list[str | None]:
        settings = load(monkeypatch)
        found = (settings.qwen_audio_key, settings.voxtral_key)
        return [key.reveal() if key else None for key in found]

    assert keys() == [None, None]
    monkeypatch.setenv("LLM_API_KEY", "llm")
    assert keys() == ["llm", "llm"]
    monkeypatch.setenv("AUDIO_LLM_API_KEY", "audio")
    assert keys() == ["audio", "audio"]
    monkeypatch.setenv("QWEN_AUDIO_API_KEY", "qwen")
    assert keys() == ["qwen", "audio"]


def test_no_secret_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load(
        monkeypatch,
        AI_SERVICE_TOKEN="hush-token",
        LLM_API_KEY="hush-key",
        DATABASE_URL="postgresql://penstock:hush%40db@host:5432/jobs?sslpassword=hush-ssl",
        LLM_BASE_URL="https://hush-user:hush-pass@models/v1/",
    )
    shown = settings.masked()
    assert "hush" not in repr(shown)
    assert "hush" not in repr(settings).replace("hush-user:hush-pass", "")
    assert shown["AI_SERVICE_TOKEN"] == "******"
    assert shown["DATABASE_URL"] == "postgresql://penstock:******@host:5432/jobs?sslpassword=******"
    assert shown["LLM_BASE_URL"] == "https://******@models/v1"
    assert settings.secret_values() == {"hush-token", "hush-key", "hush%40db", "hush@db", "hush-ssl", "hush-pass"}


def test_a_password_with_an_unescaped_at_sign_is_masked_whole() -> None:
    assert mask_url("postgres://me:p@ss@host/db") == "postgres://me:******@host/db"
    assert mask_url("postgresql://penstock@/penstock?host=/run") == "postgresql://penstock@/penstock?host=/run"


def test_settings_do_not_change_but_can_be_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load(monkeypatch, AI_SERVICE_TOKEN="hush-token")
    with pytest.raises(FrozenInstanceError):
        settings.http_port = 1  # type: ignore[misc]  # that it cannot be is what we test
    changed = settings.replace(worker_id="other", worker_http_port=9)
    assert (changed.worker_id, changed.worker_http_port) == ("other", 9)
    assert changed.ai_service_token == settings.ai_service_token


def test_loopback_addresses_are_recognised() -> None:
    assert all(map(is_loopback, ("127.0.0.1", "127.8.8.8", "::1", "[::1]", "LOCALHOST")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "192.168.0.1", "localhost.example")))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("5m", timedelta(minutes=5)),
        ("2s", timedelta(seconds=2)),
        ("1h30m", timedelta(minutes=90)),
        ("250ms", timedelta(milliseconds=250)),
        ("1.5h", timedelta(minutes=90)),
        (".5s", timedelta(milliseconds=500)),
        (" 7D ", timedelta(days=7)),
        ("0", timedelta(0)),
    ],
)
def test_durations_are_read_as_people_write_them(text: str, expected: timedelta) -> None:
    assert durations.parse(text) == expected


@pytest.mark.parametrize("text", ["", "5", "m", "-5m", "5 m", "5m5", "1h-5m", "1e3s", "5 minutes", "9" * 400 + "h"])
def test_texts_that_are_not_durations_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=re.escape("such as 250ms, 2s, 5m or 1h30m")):
        durations.parse(text)


@given(st.timedeltas(min_value=timedelta(0), max_value=timedelta(days=3650)))
def test_a_duration_is_read_back_as_it_was_written(duration: timedelta) -> None:
    assert durations.parse(durations.text(duration)) == duration


def test_the_database_can_be_named_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load(
        monkeypatch,
        POSTGRES_HOST="aimarket_postgres",
        POSTGRES_USER="aimarketAdmin",
        POSTGRES_PASSWORD="hush/p@ss:#1",
        POSTGRES_DB="aimarketDb",
    )
    assert settings.database_url is not None
    expected = "postgresql://aimarketAdmin:hush%2Fp%40ss%3A%231@aimarket_postgres:5432/aimarketDb"
    assert settings.database_url.reveal() == expected
    assert "hush" not in repr(settings.masked())
    assert {"hush/p@ss:#1", "hush%2Fp%40ss%3A%231"} <= settings.secret_values()
    assert settings.penstock_blob_url == "postgres", "as with a DATABASE_URL"


@pytest.mark.parametrize(
    ("host", "address"), [("db:6432", "db:6432"), ("[::1]", "[::1]:7777"), ("[::1]:6432", "[::1]:6432")]
)
def test_the_host_of_the_database_may_have_a_port(monkeypatch: pytest.MonkeyPatch, host: str, address: str) -> None:
    settings = load(monkeypatch, POSTGRES_HOST=host, POSTGRES_PORT="7777", POSTGRES_USER="me")
    assert settings.database_url is not None
    assert settings.database_url.reveal() == f"postgresql://me@{address}/postgres"


def test_a_url_of_the_database_wins_over_its_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load(monkeypatch, POSTGRES_HOST="other", DATABASE_URL="postgresql://penstock@host/jobs")
    assert settings.database_url is not None
    assert settings.database_url.reveal() == "postgresql://penstock@host/jobs"
    assert load(monkeypatch, POSTGRES_HOST="", DATABASE_URL="", POSTGRES_USER="me").database_url is None


def test_the_marketplace_is_secret_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load(
        monkeypatch, MARKETPLACE_CALLBACK="https://market.example/hush-path", MARKETPLACE_TOKEN="hush-token"
    )
    assert "hush" not in repr(settings.masked())
    assert list(problems(monkeypatch, MARKETPLACE_CALLBACK="")) == ["MARKETPLACE_TOKEN"]
    assert list(problems(monkeypatch, MARKETPLACE_CALLBACK="market.example")) == ["MARKETPLACE_CALLBACK"]
