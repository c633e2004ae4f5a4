"""The wrapper examples/athena/embedding with its real model, called over HTTP by Athena's protocol."""

from __future__ import annotations

import base64
import math
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from penstock.masking import Secret
from tests.support.gateways import HttpCaller, Reply, running_gateway

EXAMPLE = Path(__file__).parents[2] / "examples" / "athena" / "embedding"
GROUPS = (
    ("Falling water drives the turbine.", "The force of the river turns the wheels.", "水的落差推动涡轮机。"),
    ("My cat sleeps on the sofa all day.", "A kitten naps on the couch.", "猫整天睡在沙发上。"),
    ("The invoice must be paid by Friday.", "Please settle the bill this week.", "请在星期五之前付清账单。"),
)


@pytest.fixture(scope="module")
async def gateway(module_database_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[HttpCaller]:
    """Calls a gateway that serves the wrapper."""
    folder = tmp_path_factory.mktemp("models")
    (folder / EXAMPLE.name).symlink_to(EXAMPLE)
    token = Secret("operators-token")
    async with running_gateway(module_database_url, models_folder=folder, ai_service_token=token) as caller:
        yield caller


async def embedded(gateway: HttpCaller, text: str, **parameters: Any) -> Reply:
    message = {
        "header": {"app_id": "app-1", "status": 3},
        "parameter": {"embedding": {**parameters, "vectors": {"encoding": "utf8", "format": "json"}}},
        "payload": {"text": {"text": base64.b64encode(text.encode()).decode(), "encoding": "utf8", "status": 3}},
    }
    return await gateway.call("POST", "/v1/private/embedding", message)


def cosine(one: Sequence[float], other: Sequence[float]) -> float:
    product = sum(a * b for a, b in zip(one, other, strict=True))
    return product / math.hypot(*one) / math.hypot(*other)


async def test_texts_of_like_meaning_are_nearer_than_others_in_both_languages(gateway: HttpCaller) -> None:
    texts = [text for group in GROUPS for text in group]
    reply = await embedded(gateway, "\n".join(texts))
    assert reply.status == 200, reply.body
    vectors = reply.json["payload"]["vectors"]["text"]
    assert [len(vector) for vector in vectors] == [512] * len(texts)
    group_of = [number for number, group in enumerate(GROUPS) for _ in group]
    for at, vector in enumerate(vectors):
        near = {cosine(vector, other): group_of[n] for n, other in enumerate(vectors) if n != at}
        assert [near[value] for value in sorted(near, reverse=True)[:2]] == [group_of[at]] * 2, texts[at]


async def test_a_text_has_the_same_vector_alone_and_among_others(gateway: HttpCaller) -> None:
    alone = (await embedded(gateway, GROUPS[0][0])).json["payload"]["vectors"]["text"]
    among = (await embedded(gateway, "\n".join(GROUPS[0]), digits=2)).json["payload"]["vectors"]["text"]
    assert cosine(alone[0], among[0]) > 0.99
    assert all(number == round(number, 2) for number in among[0])
    assert any(number != round(number, 2) for number in alone[0])


@pytest.mark.parametrize(
    ("text", "parameters", "status", "stated"),
    [
        ("one\n\nthree", {}, 502, "no empty lines;code=100"),
        ("long " * 2000, {}, 502, "up to 256 lines and 8000 characters;code=101"),
        ("one", {"digits": 9}, 400, "digits"),
    ],
)
async def test_a_mistake_is_named(
    gateway: HttpCaller, text: str, parameters: dict[str, int], status: int, stated: str
) -> None:
    reply = await embedded(gateway, text, **parameters)
    assert reply.status == status, reply.body
    assert stated in reply.json["header"]["message"]
