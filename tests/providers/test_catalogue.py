"""Providers and profiles: of the documented variables, and of the file."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from penstock.errors import SettingsError
from penstock.providers.catalogue import load
from penstock.providers.endpoint import Endpoint
from penstock.providers.profile import Catalogue, Kind, Mode
from penstock.settings import Settings, load_settings

SPEECH: dict[str, Any] = {
    "whisperx_url": "http://w:8001",
    "qwen_audio_base_url": "http://q:8003/v1",
    "voxtral_base_url": "http://v:8004/v1",
}


def settings(**fields: Any) -> Settings:
    return load_settings(None).replace(**fields)


def file(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "profiles.toml"
    path.write_text(text)
    return path


def loaded(tmp_path: Path, text: str, environment: dict[str, str] | None = None, **fields: Any) -> Catalogue:
    return load(settings(penstock_profiles=file(tmp_path, text), **fields), environment or {})


def problems(tmp_path: Path, text: str, environment: dict[str, str] | None = None, **fields: Any) -> dict[str, str]:
    with pytest.raises(SettingsError) as caught:
        loaded(tmp_path, text, environment, **fields)
    assert caught.value.problems
    return {one.field.rpartition(": ")[2]: one.detail for one in caught.value.problems}


def test_without_settings_and_file_the_catalogue_is_empty() -> None:
    assert load(settings(), {}) == Catalogue({}, {})


def test_the_llm_of_the_environment_is_the_profile_of_its_model() -> None:
    catalogue = load(settings(llm_base_url="http://llm/v1", llm_api_key="sk-1234", llm_timeout="2m"), {})
    (profile,) = catalogue.profiles.values()
    (provider,) = profile.providers
    assert (profile.name, profile.mode, profile.transcribes) == ("qwen2.5-14b", Mode.FIRST, False)
    assert (provider.name, provider.kind, provider.model) == ("llm", Kind.CHAT, "qwen2.5-14b")
    assert provider.server.headers == {"Authorization": "Bearer sk-1234"}
    assert provider.timeout == timedelta(minutes=2)


def test_whisperx_is_the_profile_of_all_listed_providers_in_order() -> None:
    listed = "voxtral-small,whisperx,qwen2-audio"
    catalogue = load(settings(**SPEECH, transcription_providers=listed), {})
    profile = catalogue.profiles["whisperx"]
    assert [provider.name for provider in profile.providers] == listed.split(",")
    assert (profile.mode, profile.transcribes) == (Mode.ALL, True)
    assert set(catalogue.profiles) == {"whisperx", "qwen2-audio", "voxtral-small"}


def test_a_listed_provider_without_an_address_is_left_out() -> None:
    """The document says to set addresses only once the models are there."""
    catalogue = load(
        settings(whisperx_url="http://w", transcription_providers="whisperx,qwen2-audio", transcription_mode="first"),
        {},
    )
    profile = catalogue.profiles["whisperx"]
    assert ([provider.name for provider in profile.providers], profile.mode) == (["whisperx"], Mode.FIRST)
    assert "whisperx" not in load(settings(transcription_providers="whisperx"), {}).profiles


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"qwen_audio_api_key": "own1", "audio_llm_api_key": "audio", "llm_api_key": "llm1"}, "own1"),
        ({"audio_llm_api_key": "audio", "llm_api_key": "llm1"}, "audio"),
        ({"llm_api_key": "llm1"}, "llm1"),
    ],
)
def test_keys_of_audio_models_fall_back_as_documented(keys: dict[str, str], expected: str) -> None:
    catalogue = load(settings(**SPEECH, **keys), {})
    assert catalogue.providers["qwen2-audio"].server.api_key == expected
    assert catalogue.providers["voxtral-small"].server.api_key == keys.get("audio_llm_api_key", keys["llm_api_key"])
    assert catalogue.providers["whisperx"].server.api_key is None


FILE = """
[providers.big]
kind = "chat"
url = "http://${HOST}:8000/v1/"
model = "qwen2.5-32b"
api_key = "${BIG_KEY}"
timeout = "90s"
concurrency = 2
defaults = { top_k = 20 }

[providers.cloud]
kind = "whisperx"
interface = "openai"
url = "https://api.example/v1"
model = "whisper-1"
max_duration = "20m"

[profiles.vision]
providers = ["big", "llm"]
defaults = { max_tokens = 300 }

[profiles.whisperx]
providers = ["cloud", "whisperx"]
mode = "race"
"""


def test_the_file_adds_and_replaces(tmp_path: Path) -> None:
    known = {"HOST": "10.2.3.5", "BIG_KEY": "sk-big-key"}
    catalogue = loaded(tmp_path, FILE, known, llm_base_url="http://llm", **SPEECH)
    vision = catalogue.profiles["vision"]
    big = vision.providers[0]
    assert [provider.name for provider in vision.providers] == ["big", "llm"]
    assert (big.server.url("/chat/completions"), big.server.api_key) == (
        "http://10.2.3.5:8000/v1/chat/completions",
        "sk-big-key",
    )
    assert (big.timeout, big.concurrency, big.defaults) == (timedelta(seconds=90), 2, {"top_k": 20})
    assert (vision.mode, vision.defaults, vision.concurrency) == (Mode.FIRST, {"max_tokens": 300}, 2)
    race = catalogue.profiles["whisperx"]
    assert ([provider.name for provider in race.providers], race.mode) == (["cloud", "whisperx"], Mode.RACE)
    assert race.providers[0].max_duration == timedelta(minutes=20)
    assert "sk-big-key" in catalogue.secrets
    assert "sk-big-key" not in repr(catalogue)


def test_all_mistakes_are_reported_at_once(tmp_path: Path) -> None:
    found = problems(
        tmp_path,
        """
        [providers.a]
        kind = "chat"
        url = "ftp://x"
        timeout = "soon"
        interface = "asr"
        api_key = "${NOT_SET}"
        [profiles.b]
        providers = ["nobody", "a", "a"]
        """,
    )
    assert set(found) == {
        "providers.a.url",
        "providers.a.model",
        "providers.a.timeout",
        "providers.a.interface",
        "providers.a.api_key",
        "profiles.b.providers",
    }
    assert "NOT_SET" in found["providers.a.api_key"]
    assert "nobody" in found["profiles.b.providers"]


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("[providers.a]\nkind = 'chat'\nurl = 'http://x'\nmodel = 'm'\ncolour = 1", "providers.a.colour"),
        ("[providers.a]\nkind = 'telnet'\nurl = 'http://x'\nmodel = 'm'", "providers.a.kind"),
        ("[profiles.a]\nproviders = []", "profiles.a.providers"),
        ("[profiles.a]\nproviders = ['x']\nmode = 'some'", "profiles.a.mode"),
        ("[provider.a]", "provider"),
        ("providers = 3", "providers"),
        ("[providers]\na = 3", "providers.a"),
        ("[providers.a]\nkind = 'chat'\nurl = 'http://x'\nmodel = 'm'\napi_key = '${KEY'", "providers.a.api_key"),
        ("[providers.a]\nkind = 'chat'\nurl = 'http://x'\nmodel = 'm'\ntimeout = '9999999h'", "providers.a.timeout"),
        ("[providers.a]\nkind = 'whisperx'\nurl = 'http://x'\nmax_duration = '1s'", "providers.a.max_duration"),
        (
            "[providers.a]\nkind = 'chat'\nurl = 'http://x'\nmodel = 'm'\nmax_duration = '30s'",
            "providers.a.max_duration",
        ),
        (f"[providers.a]\ndefaults.x = {'[' * 5000}{']' * 5000}", "profiles.toml"),
        ("[providers.a.defaults" + ".x" * 900 + "]", "providers.a.kind"),
    ],
)
def test_the_fields_of_the_file_are_checked(tmp_path: Path, text: str, field: str) -> None:
    assert field in {name.rpartition("/")[2] for name in problems(tmp_path, text)}


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("[providers.a]\nkind = 'chat'\nurl = 'http://[bad'\nmodel = 'm'", "providers.a.url"),
        ("[providers.a]\nkind = 'chat'\nurl = 'http://h:99999'\nmodel = 'm'", "providers.a.url"),
        (
            "[providers.a]\nkind = 'chat'\nurl = 'http://h'\nmodel = 'm'\ndefaults = { stream = true }",
            "providers.a.defaults",
        ),
        ("[providers.whisperx]\nkind = 'chat'\nurl = 'http://h'\nmodel = 'm'", "providers.whisperx.kind"),
        ("[providers.llm]\nkind = 'whisperx'\nurl = 'http://h'", "providers.llm.kind"),
        ("[profiles.a]\nproviders = ['llm']\ndefaults = { max_tokens = 'many' }", "profiles.a.defaults"),
        ("[profiles.a]\nproviders = ['whisperx']\ndefaults = { mode = 'some' }", "profiles.a.defaults"),
    ],
)
def test_mistakes_that_would_fail_later_are_reported_at_start(tmp_path: Path, text: str, field: str) -> None:
    assert set(problems(tmp_path, text, llm_base_url="http://llm", whisperx_url="http://w")) == {field}


def test_values_of_queries_are_secrets_too() -> None:
    endpoint = Endpoint(base_url="http://h/v1?api_key=super%2Fsecret&x=true")
    assert {"super/secret", "api_key=super%2Fsecret&x=true"} <= endpoint.secrets
    assert "true" not in endpoint.secrets


def test_one_mistake_hides_no_other(tmp_path: Path) -> None:
    """A malformed table is checked like any other, and so are tables that refer to it."""
    found = problems(
        tmp_path,
        """
        [provider.x]
        [providers.a]
        kind = 3
        url = "x"
        timeout = "soon"
        concurency = 4
        [providers.b]
        kind = "chat"
        url = "http://b"
        interface = "asr"
        max_tokens = 0
        defaults = { model = "m" }
        [providers.c]
        kind = "whisperx"
        url = "http://${WHISPER_HOTS}"
        api_key = "two words"
        [profiles.mixed]
        providers = ["b", "c", "whipserx"]
        mode = "quickest"
        [profiles.defaults]
        providers = ["a", "b"]
        defaults = { max_tokens = "many" }
        """,
        environment={"WHISPER_HOST": "h"},
        whisperx_url="http://w",
    )
    assert found == {
        "provider": "is not known here; did you mean providers?",
        "providers.a.concurency": "is not known here; did you mean concurrency?",
        "providers.a.kind": found["providers.a.kind"],
        "providers.a.timeout": found["providers.a.timeout"],
        "providers.a.url": "must be a URL that begins with http:// or https://",
        "providers.b.model": "is required: the name that the server knows the model by",
        "providers.b.interface": 'is allowed for kind = "whisperx" only',
        "providers.b.max_tokens": found["providers.b.max_tokens"],
        "providers.b.defaults": "must not hold model",
        "providers.c.url": "names variables that are not set: WHISPER_HOTS; did you mean WHISPER_HOST?",
        "providers.c.api_key": "must be visible ASCII characters without spaces",
        "profiles.mixed.mode": "must be one of first, all, race",
        "profiles.mixed.providers": "must be all for chat or all for transcription",
        "profiles.defaults.defaults": found["profiles.defaults.defaults"],
    }
    assert "max_tokens" in found["profiles.defaults.defaults"]


def test_a_missing_provider_is_reported_with_a_suggestion(tmp_path: Path) -> None:
    found = problems(tmp_path, "[profiles.a]\nproviders = ['whipserx', 'llm']", whisperx_url="http://w")
    assert found["profiles.a.providers"] == (
        "there is no provider whipserx, llm; did you mean whisperx?; there are: whisperx; "
        "of the environment: llm (LLM_BASE_URL is not set)"
    )


def test_a_file_without_an_end_is_refused(tmp_path: Path) -> None:
    found = problems(tmp_path, "#" * (2**22 + 1))
    assert list(found.values()) == ["has more than 4194304 bytes"]


def test_chat_and_transcription_do_not_mix(tmp_path: Path) -> None:
    text = FILE.replace('providers = ["big", "llm"]', 'providers = ["big", "cloud"]')
    with pytest.raises(SettingsError, match="all for chat or all for transcription"):
        loaded(tmp_path, text, {"HOST": "h", "BIG_KEY": "sk-big-key"}, **SPEECH)


@pytest.mark.parametrize("content", [b"[providers", b"\xff\xfe"])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "profiles.toml"
    path.write_bytes(content)
    with pytest.raises(SettingsError, match=r"profiles\.toml"):
        load(settings(penstock_profiles=path), {})
    with pytest.raises(SettingsError, match="PENSTOCK_PROFILES"):
        load(settings(penstock_profiles=tmp_path / "absent.toml"), {})


def test_a_file_in_the_working_directory_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file(tmp_path, "[providers.a]\nkind = 'chat'\nurl = 'http://x'\nmodel = 'm'\n[profiles.mine]\nproviders = ['a']")
    monkeypatch.chdir(tmp_path)
    assert set(load(settings(), {}).profiles) == {"mine"}


def test_the_file_of_the_guide_loads(tmp_path: Path) -> None:
    guide = (Path(__file__).parents[2] / "docs" / "providers.md").read_text()
    (text,) = re.findall(r"```toml\n(.*?)```", guide, re.DOTALL)
    catalogue = loaded(
        tmp_path,
        text,
        {"BIG_KEY": "sk-big-key", "CLOUD_KEY": "sk-cloud-key"},
        llm_base_url="http://llm",
        whisperx_url="http://whisperx",
    )
    assert [one.name for one in catalogue.profiles["vision"].providers] == ["big", "llm"]
    assert [one.name for one in catalogue.profiles["whisperx"].providers] == ["whisperx", "cloud-whisper"]
