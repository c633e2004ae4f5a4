"""Logs: one line per event, constant names with fields, and never a secret."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from penstock.telemetry import logs, metrics


@pytest.fixture(autouse=True)
def _restore() -> Iterator[None]:
    yield
    structlog.contextvars.clear_contextvars()
    logs.configure(level="warning", form="json")


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_an_event_is_one_json_line_off_a_terminal() -> None:
    out = io.StringIO()
    logs.configure(stream=out)
    logs.bind(role="gateway")
    logs.get("penstock.test").info("job_done", job_id="j", seconds=0.5, text="two\nlines")
    (line,) = lines(out)
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "level": "info",
        "event": "job_done",
        "logger": "penstock.test",
        "role": "gateway",
        "job_id": "j",
        "seconds": 0.5,
        "text": "two\nlines",
    }


def test_the_console_format_is_for_people() -> None:
    out = io.StringIO()
    logs.configure(stream=out, form="console")
    logs.get("penstock.test").warning("lease_lost", epoch=7)
    assert "lease_lost" in out.getvalue()
    assert "epoch=7" in out.getvalue()
    assert not out.getvalue().startswith("{")


def test_events_below_the_level_are_dropped_for_ours_and_for_libraries() -> None:
    out = io.StringIO()
    logs.configure(stream=out, level="warning")
    logs.get("penstock.test").info("quiet")
    logging.getLogger("library").info("quiet")
    logging.getLogger("library").error("loud %s", "enough")
    assert [(line["event"], line["level"]) for line in lines(out)] == [("loud enough", "error")]


def test_fields_that_name_secrets_are_masked_at_any_depth() -> None:
    out = io.StringIO()
    logs.configure(stream=out)
    logs.get("penstock.test").info(
        "call",
        api_key="a",
        headers={"Authorization": "Bearer b", "X-Api-Key": "c", "Accept": "json"},
        password=None,
        max_tokens=256,
        usage={"prompt_tokens": 3},
    )
    (line,) = lines(out)
    assert line["api_key"] == "******"
    assert line["headers"] == {"Authorization": "******", "X-Api-Key": "******", "Accept": "json"}
    assert line["password"] is None
    assert (line["max_tokens"], line["usage"]) == (256, {"prompt_tokens": 3})


def test_known_secrets_are_masked_wherever_they_stand() -> None:
    out = io.StringIO()
    logs.configure(stream=out, secrets=["hush-token", "hush-token-longer", "x"])
    log = logs.get("penstock.test")
    log.info(
        "said",
        url="http://h/?t=hush-token-longer",
        parts=["hush-token", b"hush-token", 1, "x"],
        thing=ValueError("hush-token"),
    )
    logging.getLogger("library").warning("got %s", "hush-token")
    try:
        raise RuntimeError("no hush-token today")
    except RuntimeError:
        log.exception("failed")
    assert "hush" not in out.getvalue()
    said, got, failed = lines(out)
    assert said["url"] == "http://h/?t=******"
    assert said["parts"] == ["******", "******", 1, "x"], "a secret of one letter would mask everything"
    assert got["event"] == "got ******"
    assert "RuntimeError: no ****** today" in failed["exception"]


def test_metrics_are_rendered_as_one_text() -> None:
    metrics.counter("penstock_test_calls", "Calls of this test.", ["queue"]).labels("q").inc()
    text = metrics.exposition().decode()
    assert 'penstock_test_calls_total{queue="q"} 1.0' in text
    assert "process_resident_memory_bytes" in text
