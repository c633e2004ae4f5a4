"""Reports that wait for a heartbeat: in order, bounded, and kept until they are known to be stored."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from random import Random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from penstock.errors import InvalidInput
from penstock.jobs import output
from penstock.jobs.work import Heartbeat, LogLine
from penstock.work import outbox as outbox_module
from penstock.work.outbox import MAX_CHUNK_BYTES, Outbox, Parcel

NOW = datetime(2026, 1, 30, 9, tzinfo=UTC)


class Bell:
    """Count how often an outbox has news."""

    def __init__(self) -> None:
        self.rung = 0

    def __call__(self) -> None:
        self.rung += 1


def line(message: str) -> LogLine:
    return LogLine(time=NOW, message=message)


def texts(parcel: Parcel) -> list[str]:
    return [one.message for one in parcel.lines]


def beat(parcel: Parcel) -> Heartbeat:
    return Heartbeat(epoch=1, **parcel.fields)


def test_an_empty_outbox_has_nothing_to_send() -> None:
    box = Outbox(Bell())
    assert not box.waiting
    assert msgspec.json.decode(msgspec.json.encode(beat(box.parcel()))) == {
        "epoch": 1,
        "worker_id": None,
        "lease_seconds": None,
    }


def test_reports_stay_until_they_are_stored() -> None:
    bell = Bell()
    box = Outbox(bell)
    box.put_chunk(Raw(b"1"))
    box.put_line(line("a"))
    box.put_progress(Raw(b"0.5"))
    assert bell.rung == 3
    first = box.parcel()
    box.put_chunk(Raw(b"2"))
    box.put_progress(Raw(b"0.6"))
    box.stored(first)
    second = box.parcel()
    assert (second.chunks, second.chunks_from) == ([Raw(b"2")], 1)
    assert (second.lines, second.lines_from) == ([], 1)
    assert second.progress == Raw(b"0.6")
    box.stored(second)
    assert not box.waiting


@given(st.lists(st.integers(1, 3), max_size=20), st.randoms())
def test_parcels_that_overlap_may_be_stored_in_any_order(steps: list[int], random: Random) -> None:
    box, sent = Outbox(Bell()), 0
    parcels: list[Parcel] = []
    for step in steps:
        for _ in range(step):
            box.put_chunk(Raw(b"%d" % sent))
            sent += 1
        parcels.append(box.parcel())
    random.shuffle(parcels)
    for parcel in parcels:
        box.stored(parcel)
    assert not box.waiting


@given(st.lists(st.integers(0, MAX_CHUNK_BYTES - 2), max_size=8), st.lists(st.integers(0, 10_000), max_size=60))
def test_every_parcel_fits_in_a_heartbeat_and_all_are_sent_in_order(chunks: list[int], lines: list[int]) -> None:
    box = Outbox(Bell())
    told_chunks = [Raw(b'"%b"' % (b"x" * size)) for size in chunks]
    told_lines = ["y" * size for size in lines]
    for chunk in told_chunks:
        box.put_chunk(chunk)
    for message in told_lines:
        box.put_line(line(message))
    sent_chunks: list[Raw] = []
    sent_lines: list[str] = []
    while box.waiting:
        parcel = box.parcel()
        output.check(beat(parcel))
        assert parcel.chunks or parcel.lines
        assert (parcel.chunks_from, parcel.lines_from) == (len(sent_chunks), len(sent_lines))
        sent_chunks += parcel.chunks
        sent_lines += texts(parcel)
        box.stored(parcel)
    assert sent_chunks == told_chunks
    if sum(lines) < 500_000:
        assert sent_lines == told_lines


def test_many_small_chunks_are_sent_in_several_parcels() -> None:
    box = Outbox(Bell())
    for number in range(25_000):
        box.put_chunk(Raw(b"%d" % number))
    counts = []
    while box.waiting:
        parcel = box.parcel()
        output.check(beat(parcel))
        counts.append(len(parcel.chunks))
        box.stored(parcel)
    assert counts == [10_000, 10_000, 5_000]


def test_a_large_chunk_is_not_kept_waiting_by_lines() -> None:
    box = Outbox(Bell())
    box.put_chunk(Raw(b"1" * MAX_CHUNK_BYTES))
    for number in range(1000):
        box.put_line(line(str(number)))
    parcel = box.parcel()
    assert (len(parcel.chunks), parcel.lines) == (1, [])
    box.stored(parcel)
    assert len(box.parcel().lines) == 1000


@pytest.mark.parametrize("size", [1, 10_000], ids=["too many", "too large"])
def test_lines_that_arrive_too_fast_are_dropped_and_counted(size: int) -> None:
    box = Outbox(Bell())
    for _ in range(20_000):
        box.put_line(line("x" * size))
    parcel = box.parcel()
    assert len(parcel.lines) <= 5000
    box.stored(parcel)
    box.put_line(line("after"))
    messages = texts(box.parcel())
    assert messages == [
        f"{20_000 - len(parcel.lines)} lines were dropped here: they came faster than they were stored",
        "after",
    ]
    for _ in range(20_000):
        box.put_line(line("x" * size))
    box.close()
    last = box.parcel().lines[-1]
    assert (last.level, "lines were dropped here" in last.message) == ("warning", True)


def test_a_closed_outbox_accepts_nothing_more() -> None:
    bell = Bell()
    box = Outbox(bell)
    box.put_chunk(Raw(b"1"))
    box.close()
    box.put_chunk(Raw(b"2"))
    box.put_line(line("a"))
    box.put_progress(Raw(b"1"))
    assert bell.rung == 1
    parcel = box.parcel()
    assert (parcel.chunks, parcel.lines, parcel.progress) == ([Raw(b"1")], [], None)
    box.clear()
    assert not box.waiting


async def test_there_is_room_again_once_enough_is_stored_or_the_outbox_is_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(outbox_module, "_MAX_UNSENT_BYTES", 10)
    box = Outbox(Bell())
    await box.room()
    for _ in range(4):
        box.put_chunk(Raw(b"12345"))
    waiting = [asyncio.create_task(box.room()) for _ in range(3)]
    await asyncio.sleep(0)
    assert not any(task.done() for task in waiting)
    box.stored(box.parcel())
    await asyncio.wait_for(asyncio.gather(*waiting), 5)
    for _ in range(4):
        box.put_chunk(Raw(b"12345"))
    late = asyncio.create_task(box.room())
    await asyncio.sleep(0)
    box.close()
    await asyncio.wait_for(late, 5)


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"chunks": [1]}, "jobs[2].chunks_from"),
        ({"logs": [{"time": "2026-01-30T09:00:00Z", "message": ""}]}, "jobs[2].logs_from"),
        ({"logs": [{"time": "9999-12-31T23:00:00-05:00", "message": ""}], "logs_from": 0}, "jobs[2].logs[0].time"),
    ],
)
def test_an_invalid_heartbeat_is_refused_with_its_field(fields: dict[str, object], field: str) -> None:
    wire = msgspec.json.decode(msgspec.json.encode({"epoch": 1, **fields}), type=Heartbeat)
    with pytest.raises(InvalidInput) as caught:
        output.check(wire, "jobs[2].")
    assert [problem.field for problem in caught.value.problems] == [field]


def test_more_than_fits_in_one_heartbeat_is_refused() -> None:
    many = Heartbeat(epoch=1, chunks=[Raw(b"1")] * 6000, chunks_from=0, logs=[line("")] * 4001, logs_from=0)
    with pytest.raises(InvalidInput, match="10001 were sent; at most 10000 are allowed"):
        output.check(many)
    large = Heartbeat(epoch=1, logs=[line("x" * 10_000)] * 110, logs_from=0)
    with pytest.raises(InvalidInput, match=r"logs: chunks and logs have \d+ bytes; at most 1048576 are allowed"):
        output.check(large)
    output.check(Heartbeat(epoch=1, chunks=[Raw(b"1")] * 10_000, chunks_from=0))
    output.check(Heartbeat(epoch=1, chunks=[Raw(b"1" * 2**20)], chunks_from=7))
