"""Registered models as providers, called through the host of this process and through a gateway."""

from __future__ import annotations

import textwrap
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from penstock import Client
from penstock.failures import CallFailed, Category
from penstock.models.folder import ManifestFiles
from penstock.models.host.host import ModelHost
from penstock.models.service import ModelService
from penstock.providers.kinds.model import ModelCaller
from penstock.providers.profile import Kind, Mode, ProviderSpec
from penstock.providers.servers import Servers
from penstock.workers.chat import ChatExecutor
from penstock.workers.model_calls import GatewayCaller, HostedCaller
from penstock.workers.transcription import TranscriptionExecutor
from tests.support.attempts import claimed_job, job_context
from tests.support.gateways import running_gateway as gateway_serving
from tests.support.http_servers import responding, serving
from tests.support.providers import profile, spec
from tests.support.recordings import base64_of, spoken

CODE = {
    "assistant": """
        class Model:
            def predict(self, messages: list[dict], max_tokens: int = 10, temperature: float = 1.0) -> dict:
                said = messages[-1]["content"]
                if said == "fail":
                    raise RuntimeError("it is tired")
                usage = {"prompt_tokens": len(messages), "completion_tokens": max_tokens}
                return {"content": f"You said {said}", "model": "assistant-v2", "usage": usage, "finish_reason": "stop"}
    """,
    "typist": """
        from collections.abc import Iterator

        class Model:
            def predict(self, messages: list[dict]) -> Iterator[str]:
                yield from ("Dear ", messages[-1]["content"], "!")
    """,
    "number": """
        class Model:
            def predict(self, messages: list[dict]) -> int:
                return 42
    """,
    "ears": """
        from penstock import Audio

        class Model:
            def predict(self, audio: Audio, language: str = "?") -> dict:
                seconds = len(audio.data) > 1000
                return {"text": f"{audio.media_type} {seconds}", "language": language}
    """,
}


def write_models(folder: Path) -> Path:
    """Write the models of these tests into a folder."""
    for name, code in CODE.items():
        (folder / name).mkdir(parents=True)
        (folder / name / f"{name}_model.py").write_text(textwrap.dedent(code))
        (folder / name / "model.toml").write_text(f'runtime = "python"\n[python]\nclass = "{name}_model:Model"\n')
    return folder


@pytest.fixture(scope="module", params=["host", "gateway"])
async def models(
    request: pytest.FixtureRequest, module_database_url: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[ModelCaller]:
    """The same models, in this process and behind a gateway."""
    folder = write_models(tmp_path_factory.mktemp("models"))
    if request.param == "gateway":
        async with (
            gateway_serving(module_database_url, models_folder=folder) as caller,
            Client(caller.address) as client,
        ):
            yield GatewayCaller(client)
    else:
        service = ModelService(ModelHost(), folders=[ManifestFiles(root=folder)])
        await service.start()
        try:
            yield HostedCaller(service)
        finally:
            await service.stop()


def model(name: str, kind: Kind = Kind.MODEL, **fields: Any) -> ProviderSpec:
    """Return a provider that is a registered model."""
    return ProviderSpec(
        name=f"our-{name}", kind=kind, endpoint=None, model=name, **({"timeout": timedelta(seconds=30)} | fields)
    )


async def test_a_chat_job_runs_on_a_registered_model(models: ModelCaller) -> None:
    context = job_context()
    result = await ChatExecutor(profile(model("assistant", defaults={"max_tokens": 7})), Servers(models))(
        claimed_job(user="Hi", temperature=0.5), context
    )
    assert (result.content, result.model, result.finish_reason) == ("You said Hi", "assistant-v2", "stop")
    assert result.usage == {"prompt_tokens": 1, "completion_tokens": 7}
    (usage,) = context.usage
    assert (usage.provider, usage.model, usage.completion_tokens) == ("our-assistant", "assistant", 7)


async def test_a_gateways_model_cannot_be_made_to_read_uploads(models: ModelCaller) -> None:
    if not isinstance(models, GatewayCaller):
        return  # a model of this process gets no uploads at all
    named = b'{"messages": [{"role": "user", "content": "blob:01990000-0000-7000-8000-000000000007"}]}'
    with pytest.raises(CallFailed, match="uploads") as caught:
        await models.call("assistant", named, request_id="r")
    assert caught.value.category is Category.BAD_INPUT


async def test_a_models_stream_is_the_jobs_output(models: ModelCaller) -> None:
    context = job_context()
    result = await ChatExecutor(profile(model("typist")), Servers(models))(
        claimed_job(user="Ada", stream=True), context
    )
    assert [msgspec.json.decode(chunk) for chunk in context.outbox.parcel().chunks] == [
        {"delta": "Dear "},
        {"delta": "Ada"},
        {"delta": "!"},
    ]
    assert (result.content, result.model) == ("Dear Ada!", "typist")


async def test_a_model_that_only_streams_serves_whole_completions_too(models: ModelCaller) -> None:
    result = await ChatExecutor(profile(model("typist")), Servers(models))(claimed_job(user="Ada"), job_context())
    assert result.content == "Dear Ada!"


async def test_a_server_stands_in_for_a_model_that_fails(models: ModelCaller) -> None:
    completion = {"choices": [{"message": {"content": "Hello"}}]}
    async with serving(responding(completion)) as seen:
        servers = Servers(models)
        result = await ChatExecutor(profile(model("assistant"), spec(seen.address)), servers)(
            claimed_job(user="fail"), job_context()
        )
        await servers.close()
    first, second = result.attempts
    assert (first.status, second.status, result.content) == ("failed", "completed", "Hello")
    assert "it is tired" in (first.error or "")


@pytest.mark.parametrize(
    ("name", "stated", "category", "message"),
    [
        ("nothing", {"user": "Hi"}, Category.PROVIDER_ERROR, "nothing"),
        ("number", {"user": "Hi"}, Category.PROVIDER_ERROR, "is not a text and has no content"),
        ("assistant", {"user": "Hi", "stop": ["a"]}, Category.BAD_INPUT, "stop"),
    ],
)
async def test_an_option_or_output_that_does_not_fit_is_reported(
    models: ModelCaller, name: str, stated: dict[str, Any], category: Category, message: str
) -> None:
    with pytest.raises(CallFailed) as caught:
        await ChatExecutor(profile(model(name)), Servers(models))(claimed_job(**stated), job_context())
    assert caught.value.category is category
    assert message in caught.value.message


async def test_a_transcription_job_runs_on_a_registered_model(models: ModelCaller, tmp_path: Path) -> None:
    wav = spoken(tmp_path / "a.wav")
    executor = TranscriptionExecutor(
        profile(model("ears", Kind.AUDIO_MODEL), mode=Mode.FIRST), Servers(models), fetcher=_never(), blobs=_never()
    )
    result = await executor(claimed_job(task_type="transcription", audio=base64_of(wav), language="en"), job_context())
    assert (result.text, result.language, result.model) == ("audio/wav True", "en", "ears")
    assert len(result.segments) == 1


async def test_a_wait_that_a_model_reports_closes_the_providers_gate() -> None:
    class Limited:
        calls = 0

        async def call(self, *_: object, **__: object) -> bytes:
            self.calls += 1
            raise CallFailed(Category.RATE_LIMITED, "the server limits us", retry_after=timedelta(seconds=40))

    limited = Limited()
    executor = ChatExecutor(profile(model("assistant")), Servers(limited))
    for _ in range(2):
        with pytest.raises(CallFailed) as caught:
            await executor(claimed_job(user="Hi"), job_context())
        assert caught.value.category is Category.RATE_LIMITED
        assert timedelta(seconds=30) < (caught.value.retry_after or timedelta(0)) <= timedelta(seconds=40)
    assert limited.calls == 1


def _never() -> Any:
    """Return nothing: a recording inside the input is not fetched."""
    return None
