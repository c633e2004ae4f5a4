"""The demonstration of Athena Serving: its calls by the protocol, and its pictures."""

from __future__ import annotations

import io
from pathlib import Path

import aiohttp
import PIL.Image
from rich.console import Console

from examples.athena.demo import HERE, WRAPPERS, show
from penstock.masking import Secret
from tests.support.gateways import running_gateway


async def test_the_wrappers_return_what_they_should_and_it_is_drawn(module_database_url: str, tmp_path: Path) -> None:
    models, out, printed = tmp_path / "models", tmp_path / "pictures", io.StringIO()
    models.mkdir()
    for name in WRAPPERS:
        (models / name).symlink_to(HERE / name)
    token = Secret("operators-token")
    async with (
        running_gateway(module_database_url, models_folder=models, ai_service_token=token) as gateway,
        aiohttp.ClientSession(gateway.address, headers={"Authorization": "Bearer operators-token"}) as session,
    ):
        assert await show(session, out, Console(file=printed)), printed.getvalue()
    for name in ("ocr.png", "persons.jpg", "embedding.png", "speech.gif"):
        path = out / name
        assert path.stat().st_size < 150_000
        with PIL.Image.open(path) as picture:
            assert len(picture.convert("RGB").getcolors(1 << 20) or ()) > 4, name
    with PIL.Image.open(out / "speech.gif") as film:
        assert getattr(film, "n_frames", 1) > 2
