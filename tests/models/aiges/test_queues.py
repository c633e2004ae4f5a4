"""The queues between callers, a wrapper's threads and its results: each is bounded in bytes."""

from __future__ import annotations

import queue
import threading
from typing import Any

import pytest

from penstock.models.replica.aiges import package

package.ensure()

from aiges.dto import DataListCls, DataListNode  # noqa: E402
from aiges.pools import Context, ModelProcess, RequestPool  # noqa: E402
from aiges.waiting import Inputs, Outputs, Reader  # noqa: E402

LIMIT = 20.0  # seconds that nothing here may take
PIECE = b"x" * 2**20


def inputs() -> Inputs:
    return Inputs(Reader(threading.Condition()))


def filled(waiting: queue.Queue[Any], item: Any, *, timeout: float = 0) -> int:
    """Put an item until the queue is full; return how often."""
    for count in range(100_000):
        try:
            waiting.put(item, block=timeout > 0, timeout=timeout or None)
        except queue.Full:
            return count
    raise AssertionError("the queue has no bound")


def request() -> DataListCls:
    return DataListCls([DataListNode("sound", PIECE)])


def context() -> Context:
    one = Context()
    one.set_data(request())
    return one


@pytest.mark.parametrize(
    "item", [PIECE, request(), context(), ("sid", PIECE), {"data": [bytearray(PIECE)]}, memoryview(PIECE), "x" * 2**20]
)
def test_whatever_wrappers_queue_is_bounded_in_bytes(item: object) -> None:
    assert 10 <= filled(inputs(), item) <= 16
    assert 10 <= filled(Outputs(lambda: False), item) <= 16


def test_empty_items_are_bounded_too() -> None:
    assert 1000 < filled(inputs(), None) <= 2**14


def test_an_item_that_is_too_large_waits_alone() -> None:
    assert filled(inputs(), PIECE * 20) == 1


def test_a_result_that_waits_for_room_is_dropped_with_its_session() -> None:
    results = Outputs(lambda: False)
    filled(results, PIECE)
    sender = threading.Thread(target=results.put, args=(PIECE,), daemon=True)
    sender.start()
    results.clear()
    sender.join(LIMIT)
    assert not sender.is_alive()
    assert results.qsize() <= 1  # one, if the sender came after the end


def test_a_result_after_the_end_of_its_session_does_not_wait() -> None:
    results = Outputs(lambda: True)
    while results.qsize() < 10:
        results.put(PIECE)
    for _ in range(10):
        results.put(PIECE)
    assert results.qsize() < 20


def test_requests_that_the_model_has_not_taken_are_bounded() -> None:
    """They wait at their handle, and not in the queue of the model."""
    began, go = threading.Semaphore(0), threading.Event()

    def infer(_given: Context, _callback: object) -> None:
        began.release()
        assert go.wait(LIMIT)

    requests: queue.Queue[Any] = queue.Queue()
    pool = RequestPool(requests, callback_fn=print)
    model = ModelProcess(requests, pool.conns_map, print)
    model.register_infer_func(infer)
    model.start()
    handle = pool.get_idle_handle()
    assert handle is not None
    thread = pool.get_thread(handle)
    thread.send_to_input_queue("sid", request())
    assert began.acquire(timeout=LIMIT)
    sent = filled(thread.input_queue, context(), timeout=0.1)
    assert sent < 20
    assert requests.qsize() <= 1
    go.set()
    for _ in range(sent):
        assert began.acquire(timeout=LIMIT)
