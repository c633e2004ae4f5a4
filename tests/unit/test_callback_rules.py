"""The rules of callbacks: what a response means, how long to wait, and who may have a slot."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from penstock.callbacks import event_types, rules
from penstock.callbacks.chains import Chains
from penstock.callbacks.message import Delivery, message_id, parse_message_id, stored_data
from penstock.callbacks.rules import Response, Result, judge
from penstock.callbacks.slots import Slots, User
from penstock.tenants.principal import TenantId

NOW = datetime(2026, 11, 30, tzinfo=UTC)


def response(status: int | None, **fields: timedelta | float) -> Response:
    return Response(status=status, **({"seconds": 0.1} | fields))  # type: ignore[arg-type]


@pytest.mark.parametrize("status", [200, 201, 204, 299])
def test_every_2xx_delivers(status: int) -> None:
    assert judge(response(status), 1, jitter=0.5).result is Result.DELIVERED


@pytest.mark.parametrize("status", [None, 100, 301, 400, 401, 404, 408, 429, 500, 503])
def test_anything_else_is_repeated_by_the_schedule_until_it_is_dead(status: int | None) -> None:
    for tries, wait in enumerate(rules.SCHEDULE, start=1):
        verdict = judge(response(status), tries, jitter=0.5)
        assert (verdict.result, verdict.delay) == (Result.AGAIN, wait)
    assert judge(response(status), len(rules.SCHEDULE) + 1, jitter=0.5).result is Result.DEAD


def test_410_ends_at_once() -> None:
    assert judge(response(410), 1, jitter=0.5).result is Result.DEAD


@given(st.floats(0, 1), st.integers(1, len(rules.SCHEDULE)))
def test_jitter_moves_a_wait_by_a_tenth_at_most(jitter: float, tries: int) -> None:
    delay = judge(response(500), tries, jitter=jitter).delay
    assert rules.SCHEDULE[tries - 1] * 0.9 <= delay <= rules.SCHEDULE[tries - 1] * 1.1


def test_retry_after_lengthens_a_wait_up_to_a_day() -> None:
    def delay(wait: timedelta) -> timedelta:
        return judge(response(503, retry_after=wait), 1, jitter=0.5).delay

    assert delay(timedelta(seconds=1)) == timedelta(seconds=5)
    assert delay(timedelta(hours=2)) == timedelta(hours=2)
    assert delay(timedelta(days=7)) == timedelta(days=1)


def test_an_endpoint_rests_for_longer_and_longer() -> None:
    rests = [rules.rest_after(failures).total_seconds() for failures in range(12)]
    assert rests == [0, 0, 0, 0, 0, 10, 20, 40, 80, 160, 300, 300]
    assert rules.rest_after(10**9) == timedelta(minutes=5)
    assert response(503, retry_after=timedelta(days=3)).requested_rest == timedelta(hours=1)
    assert response(500, retry_after=timedelta(days=3)).requested_rest == timedelta(0)


def test_only_a_receiver_that_does_not_work_is_down() -> None:
    assert [status for status in (None, 200, 302, 400, 408, 410, 429, 500) if response(status).down] == [
        None, 408, 429, 500,
    ]  # fmt: skip
    assert not response(200, seconds=2.0).quick


def test_a_tenant_and_an_endpoint_take_at_most_what_is_free() -> None:
    slots = Slots(12)
    woken: list[int] = []
    users = [User(tenant=TenantId(1), endpoint_id=UUID(int=n), ready=lambda n=n: woken.append(n)) for n in range(4)]  # type: ignore[misc]
    other = User(tenant=TenantId(2), endpoint_id=UUID(int=9), ready=lambda: None)
    taken = sum(slots.take(user) for _ in range(12) for user in users)
    assert taken == 6, "half of the slots"
    assert sum(slots.take(other) for _ in range(12)) == 3, "half of the rest"
    assert slots.taken == 9
    slots.give(users[0])
    assert woken, "an endpoint that waits is called again"
    for user in users:
        slots.leave(user)


def test_patterns_name_types() -> None:
    for pattern in ("*", "job.*", "review.written", "review.*", *event_types.TYPES):
        assert event_types.problem(pattern) is None
    for pattern in ("", "job", "job.", "*.*", "job.complete", "callback.test", "jobs.*", "%"):
        assert event_types.problem(pattern) is not None
    assert event_types.wants({"job.*"}, "job.failed")
    assert not event_types.wants({"job.failed"}, "job.completed")
    assert event_types.as_like(["job.cancel_requested", "job.*"]) == ["job.%", r"job.cancel\_requested"]


@given(st.integers(1, 2**31 - 1), st.integers(0, 2**62), st.integers(0, 2**31 - 1), st.integers(0, 2**32 - 1))
def test_ids_of_messages_are_read_back(tenant: int, position: int, place: int, mark: int) -> None:
    parsed = parse_message_id(message_id(tenant, position, place, mark))
    assert parsed == ((tenant, position, place, mark) if position < 10**18 else None)


@given(st.text())
def test_other_texts_are_not_ids(text: str) -> None:
    parsed = parse_message_id(text)
    assert parsed is None or message_id(*parsed) == text


def test_large_data_is_left_out() -> None:
    assert stored_data({"first": 0, "chunks": "x" * 300_000, "owner_service": "shop"}) == (
        b'{"first":0,"owner_service":"shop","omitted_bytes":300046}'
    )


def test_every_type_of_event_can_be_wanted() -> None:
    """A statement that stores a new type of event needs its line in the list."""
    sources = Path(event_types.__file__).parents[1].rglob("*.sql")
    stored = {kind for source in sources for kind in re.findall(r"'(job\.[a-z_]+)'", source.read_text())}
    assert stored == set(event_types.TYPES)


def delivery(position: int, subject: str) -> Delivery:
    return Delivery(
        position=position, place=1, mark=1, kind="job.created", source="/", subject=subject, at=NOW, data=Raw(b"{}")
    )


def test_one_delivery_of_a_subject_is_in_flight_at_a_time() -> None:
    chains = Chains()
    for position, subject in enumerate("aabca", start=1):
        chains.append(delivery(position, subject), b"")
    taken = []
    while chains.ready:
        taken.append(chains.take()[0])
    assert [one.position for one in taken] == [1, 3, 4]
    assert chains.end(taken[0], failed=False) == []
    assert chains.take()[0].position == 2
    assert [one.position for one in chains.end(delivery(2, "a"), failed=True)] == [5], "it waits in the database"
    assert chains.parked(delivery(9, "a"))
    assert not chains.parked(delivery(9, "b"))
    for one in taken[1:]:
        chains.end(one, failed=False)
    assert not chains


@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), max_size=40))
def test_each_subject_keeps_its_order_whatever_fails(events: list[tuple[str, bool]]) -> None:
    chains, sent, behind = Chains(), [], []
    failing = {position: failed for position, (_, failed) in enumerate(events)}
    for position, (subject, _) in enumerate(events):
        chains.append(delivery(position, subject), b"")
    while chains.ready:
        one, _ = chains.take()
        sent.append(one)
        behind += chains.end(one, failed=failing[one.position])
    assert not chains
    assert sorted(one.position for one in [*sent, *behind]) == list(range(len(events)))
    for subject in "abc":
        own = [one.position for one in sent if one.subject == subject]
        assert own == sorted(own)
        failed = [position for position in own if failing[position]]
        assert failed in ([], own[-1:]), "nothing of a subject is sent after a failure"
