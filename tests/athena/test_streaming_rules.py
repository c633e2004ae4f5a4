"""The rules of sessions: which frames belong to one, when its input ends, and how its results are marked."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.athena.protocol.data import Status
from penstock.athena.sessions.input import InputEnded, SessionInput, Step, UnexpectedFrame
from penstock.athena.sessions.output import Marks, OutputEnded, SessionOutput

BEGIN, CONTINUE, END, ONCE = Status

statuses = st.sampled_from(Status)
names = st.sampled_from(["a", "b", "c"])
frames = st.tuples(st.none() | statuses, st.dictionaries(names, st.none() | statuses, max_size=3))


@pytest.mark.parametrize("header", [None, BEGIN])
def test_follow_up_frames_need_no_header(header: Status | None) -> None:
    session = SessionInput()
    assert session.take(header, {"audio": BEGIN}) == Step(statuses={"audio": BEGIN}, last=False)
    assert session.take(None, {"audio": CONTINUE}) == Step(statuses={"audio": CONTINUE}, last=False)
    assert session.take(None, {"audio": END}) == Step(statuses={"audio": END}, last=True)


def test_data_without_a_status_takes_that_of_the_header_or_continues_its_stream() -> None:
    session = SessionInput()
    assert session.take(BEGIN, {"audio": None}).statuses == {"audio": BEGIN}
    assert session.take(None, {"audio": None}) == Step(statuses={"audio": CONTINUE}, last=False)
    assert session.take(END, {"audio": None, "text": None}) == Step(statuses={"audio": END, "text": ONCE}, last=True)
    assert SessionInput().take(None, {"text": None}) == Step(statuses={"text": ONCE}, last=True)


def test_the_input_ends_with_the_last_data_stream() -> None:
    session = SessionInput()
    session.take(None, {"left": BEGIN, "right": BEGIN, "settings": ONCE})
    assert not session.take(None, {"left": END}).last
    assert session.take(None, {"right": END}).last


def test_the_data_streams_of_a_session_are_limited() -> None:
    session = SessionInput()
    session.take(BEGIN, {f"stream{number}": BEGIN if number % 2 else ONCE for number in range(64)})
    session.take(None, {"stream1": CONTINUE})
    with pytest.raises(UnexpectedFrame, match="64 data streams"):
        session.take(None, {"stream1": CONTINUE, "another": ONCE})


def test_the_status_of_the_header_decides() -> None:
    session = SessionInput()
    assert not session.take(BEGIN, {"text": ONCE}).last
    assert not session.take(CONTINUE, {"audio": ONCE}).last
    assert session.take(END, {}) == Step(last=True)


@pytest.mark.parametrize(
    ("header", "data"), [(CONTINUE, {"a": CONTINUE}), (END, {"a": END}), (None, {"a": CONTINUE}), (None, {"a": END})]
)
def test_a_session_does_not_begin_in_the_middle(header: Status | None, data: Mapping[str, Status]) -> None:
    session = SessionInput()
    with pytest.raises(UnexpectedFrame, match="must have status 0, or 3"):
        session.take(header, data)
    assert not session.begun


def test_frames_after_the_last_one_and_data_of_a_stream_that_ended_are_refused() -> None:
    session = SessionInput()
    session.take(BEGIN, {"a": ONCE, "b": BEGIN})
    with pytest.raises(UnexpectedFrame, match=r"payload\.a: this data stream has ended"):
        session.take(None, {"a": CONTINUE, "b": CONTINUE})
    with pytest.raises(UnexpectedFrame, match="no payload"):
        session.take(None, {})
    session.take(None, {"b": END})
    with pytest.raises(InputEnded):
        session.take(None, {"b": END})


@given(st.lists(frames, max_size=12))
def test_any_frames_end_a_session_once_or_are_refused_without_a_change(given: list[tuple[Status | None, dict]]) -> None:  # type: ignore[type-arg]
    session, ends = SessionInput(), 0
    for header, data in given:
        before = (session.begun, session.ended)
        try:
            step = session.take(header, data)
        except InputEnded:
            assert before == (True, True)
        except UnexpectedFrame:
            assert (session.begun, session.ended) == before != (True, True)
        else:
            assert step.statuses.keys() == data.keys()
            assert step.last == session.ended
            ends += step.last
    assert ends == session.ended <= 1


@given(st.data(), st.dictionaries(names, st.integers(1, 5), min_size=1))
def test_interleaved_data_streams_end_with_the_last_of_them(data: st.DataObject, sizes: dict[str, int]) -> None:
    order = data.draw(st.permutations([name for name, size in sizes.items() for _ in range(size - 1)]))
    session, sent = SessionInput(), dict.fromkeys(sizes, 1)
    step = session.take(None, {name: ONCE if size == 1 else BEGIN for name, size in sizes.items()})
    assert step.last == (not order)
    for index, name in enumerate(order):
        sent[name] += 1
        step = session.take(None, {name: END if sent[name] == sizes[name] else CONTINUE})
        assert step.last == (index == len(order) - 1)


@given(st.data(), st.integers(2, 10))
def test_frames_repeated_after_a_cut_reach_the_engine_once(data: st.DataObject, count: int) -> None:
    cut = data.draw(st.integers(1, count - 1))
    again = data.draw(st.integers(0, cut))
    session, received = SessionInput(), list[int]()

    def send(number: int) -> None:
        status = BEGIN if number == 0 else END if number == count - 1 else CONTINUE
        if "audio" in session.take(None, {"audio": status}, {"audio": number}).statuses:
            received.append(number)

    for number in range(cut):
        send(number)
    session.resume()
    for number in range(again, count):
        send(number)
    assert received == list(range(count))
    assert session.ended


def test_the_message_with_the_last_expected_result_ends_the_session() -> None:
    session = SessionOutput(["text", "words"])
    assert shown(session.chunk({"text": BEGIN})) == (BEGIN, {"text": (BEGIN, 1)})
    assert shown(session.chunk({"text": END, "words": BEGIN})) == (CONTINUE, {"text": (END, 2), "words": (BEGIN, 1)})
    assert shown(session.chunk({"words": END})) == (END, {"words": (END, 2)})
    assert session.end({}) is None
    with pytest.raises(OutputEnded):
        session.chunk({"text": CONTINUE})
    with pytest.raises(OutputEnded):
        session.end({"text": ONCE})


def test_without_known_results_the_end_of_the_call_ends_the_session() -> None:
    session = SessionOutput()
    assert shown(session.chunk({"text": BEGIN})) == (BEGIN, {"text": (BEGIN, 1)})
    assert shown(session.chunk({"text": END})) == (CONTINUE, {"text": (END, 2)})
    assert shown(session.end({})) == (END, {})


def test_one_message_with_everything_has_status_3() -> None:
    assert shown(SessionOutput().end({"text": None})) == (ONCE, {"text": (ONCE, 1)})
    assert shown(SessionOutput(["text"]).chunk({"text": ONCE})) == (ONCE, {"text": (ONCE, 1)})
    assert shown(SessionOutput().end({})) == (END, {})


def test_results_without_a_status_get_it_from_their_place() -> None:
    session = SessionOutput()
    assert shown(session.chunk({"text": None})) == (BEGIN, {"text": (BEGIN, 1)})
    assert shown(session.chunk({"text": None})) == (CONTINUE, {"text": (CONTINUE, 2)})
    assert shown(session.end({"text": None, "sum": None})) == (END, {"text": (END, 3), "sum": (ONCE, 1)})


@given(
    st.lists(st.dictionaries(names, st.none() | statuses, min_size=1, max_size=3), max_size=10),
    st.sets(names),
    st.dictionaries(names, st.none() | statuses, max_size=2),
)
def test_exactly_one_message_ends_a_session_and_results_are_numbered(
    chunks: list[dict[str, Status | None]], expected: set[str], output: dict[str, Status | None]
) -> None:
    session, sent = SessionOutput(expected), list[Marks]()
    for chunk in chunks:
        if session.ended:
            with pytest.raises(OutputEnded):
                session.chunk(chunk)
        else:
            sent.append(session.chunk(chunk))
    if not session.ended:
        last = session.end(output)
        assert last is not None
        sent.append(last)
    assert [marks.status.last for marks in sent] == [False] * (len(sent) - 1) + [True]
    assert [marks.status for marks in sent if marks.status is BEGIN] == [BEGIN] * (len(sent) > 1)
    for name in ("a", "b", "c"):
        numbers = [marks.pieces[name].seq for marks in sent if name in marks.pieces]
        assert numbers == list(range(1, len(numbers) + 1))


def shown(marks: Marks | None) -> tuple[Status, dict[str, tuple[Status, int]]]:
    assert marks is not None
    return marks.status, {name: (piece.status, piece.seq) for name, piece in marks.pieces.items()}
