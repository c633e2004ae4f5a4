"""Pools of handles for streaming sessions: each handle stands for a thread of the wrapper's own class.

A handle is given to one session at a time, and to the next one only when its thread waits for input again: a thread
that is still busy with an ended session cannot send its results into another one. Input queues are bounded in bytes.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from aiges.core.types import PROCESS_MODE, THREAD_MODE
from aiges.pools import Context, ModelProcess, ReqHandleThread, RequestPool
from aiges.replies import failed
from aiges.utils.log import log
from aiges.waiting import Inputs, Outputs, Reader

__all__ = [
    "Context",
    "ModelProcess",
    "Pool",
    "ReqHandleThread",
    "RequestPool",
    "SessionManager",
    "StreamHandleThread",
    "ThreadPool",
    "WorkerThread",
]

_FREE_SECONDS = 5.0  # the time for a thread whose session has ended to ask for input again

_holding = threading.local()


@contextmanager
def holding() -> Iterator[list[WorkerThread]]:
    """Collect the handles that this thread takes in the block. No other session gets one before it is released, even
    if the wrapper gives it back earlier."""
    held: list[WorkerThread] = []
    _holding.handles = held
    try:
        yield held
    finally:
        del _holding.handles


class StreamHandleThread(threading.Thread):
    """The thread of one handle. A wrapper derives from it and overrides ``run``, which takes requests from ``in_q``."""

    def __init__(self, session_thread: WorkerThread, in_q: Inputs, out_q: Outputs) -> None:
        super().__init__(daemon=True)
        self.is_stopping = False
        self.session_thread = session_thread
        self.in_q = in_q
        self.out_q = out_q

    def setDaemon(self, daemonic: bool) -> None:
        """Do nothing: a replica ends when its calls have ended, whatever its threads wait for."""

    def init_model(self, *args: Any, **named: Any) -> Any:
        raise NotImplementedError("init_model is not implemented")

    def infer(self, req: Any) -> Any:
        raise NotImplementedError("infer is not implemented")

    def stop(self) -> None:
        self.is_stopping = True

    def run(self) -> None:
        self.init_model(self.session_thread.handle)
        while not self.is_stopping:
            self.infer(self.in_q.get())


class WorkerThread:
    """The state of one handle: the session that it belongs to, its queues, and its thread."""

    def __init__(self, handle: str, changed: threading.Condition | None = None) -> None:
        self.handle = handle
        self.sid = ""
        self.params: Mapping[str, Any] = {}
        self.callback_fn: Callable[..., Any] | None = None
        self.is_idle = True
        self.held = False  # by a session of the replica
        self.is_stopping = False
        self.changed = changed or threading.Condition()
        self.reader = Reader(self.changed)
        self.in_q = Inputs(self.reader)
        self.out_q = Outputs(lambda: self.is_idle and not self.held)
        self.StreamHandleThreadClass: type[StreamHandleThread] = StreamHandleThread
        self.thread: StreamHandleThread | None = None

    @property
    def idle(self) -> bool:
        return self.is_idle

    @property
    def free(self) -> bool:
        """Whether no session has the handle, and its thread waits for input."""
        return self.is_idle and not self.held and self.reader.waits

    def take(self) -> None:
        """Give the handle to a session. The caller holds the pool's lock."""
        self.is_idle = False
        self.out_q.clear()  # of what the thread has sent after the last session's end
        held: list[WorkerThread] | None = getattr(_holding, "handles", None)
        if held is not None:
            self.held = True
            held.append(self)
        if not self.is_alive():
            self.start()

    def release(self) -> None:
        """Take the handle back from the session that has held it."""
        with self.changed:
            self.held = False
            self.reset()

    def setup_sid(self, sid: str) -> None:
        self.sid = sid

    def setup_params(self, params: Mapping[str, Any]) -> None:
        self.params = params
        self.is_idle = False

    def setup_callback_fn(self, callback: Callable[..., Any]) -> None:
        self.callback_fn = callback

    def setStreamHandleThreadClass(self, cls: type[StreamHandleThread]) -> None:
        self.StreamHandleThreadClass = cls

    def reset(self) -> None:
        """Give the handle back; what is queued for its session is dropped."""
        with self.changed:
            self.sid = ""
            self.params = {}
            self.in_q.clear()
            self.out_q.clear()
            self.is_idle = True
            self.changed.notify_all()

    def start(self) -> None:
        """Start the thread, or a new one where it has ended."""
        self.reader.restart()
        thread = self.StreamHandleThreadClass(self, self.in_q, self.out_q)
        run = thread.run
        thread.run = lambda: self._run(run)  # type: ignore[method-assign]  # to learn of its end
        self.thread = thread
        thread.start()

    def is_alive(self) -> bool:
        return self.thread is not None and self.thread.is_alive()

    def stop(self) -> None:
        self.is_stopping = True
        if self.thread is not None:
            self.thread.stop()

    def _run(self, run: Callable[[], object]) -> None:
        error: BaseException | None = None
        try:
            run()
        except BaseException as raised:  # noqa: BLE001 - the wrapper's code; its session ends, the next has a new thread
            error = raised
            log.error("the thread of the handle %s has failed", self.handle, exc_info=raised)
        sid = self.sid
        self.reader.end()
        if sid:
            failed(sid, error)


class Pool:
    """Handles and what stands behind each."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.workers: dict[str, WorkerThread] = {}

    def get_thread(self, handle: str) -> WorkerThread | None:
        return self.workers.get(handle)

    def get_idle_thread_handle(self) -> tuple[str, WorkerThread] | None:
        """Take a handle that no session has. Waits for a thread that is about to ask for input; None where all handles
        have sessions."""
        with self.changed:
            if not self.changed.wait_for(self._decided, _FREE_SECONDS):
                log.error("no handle is free: threads of the wrapper are still busy with sessions that have ended")
            for handle, worker in self.workers.items():
                if worker.free:
                    worker.take()
                    return handle, worker
        return None

    def _decided(self) -> bool:
        return any(worker.free for worker in self.workers.values()) or not any(
            worker.is_idle for worker in self.workers.values()
        )

    def reset_thread(self, handle: str) -> None:
        worker = self.workers.get(handle)
        if worker is not None:
            worker.reset()

    def set_idle(self, handle: str) -> None:
        worker = self.workers.get(handle)
        if worker is not None:
            with self.changed:
                worker.is_idle = True
                self.changed.notify_all()

    def stop(self) -> None:
        for worker in self.workers.values():
            worker.stop()


class ThreadPool(Pool):
    """Handles with one thread each."""

    def __init__(self, reqDataThreadCls: type[StreamHandleThread], process_no: int = 0, nums: int = 10) -> None:
        super().__init__()
        for number in range(int(nums)):
            handle = f"Process-{process_no}-Thread-{number}"
            worker = WorkerThread(handle, self.changed)
            worker.setStreamHandleThreadClass(reqDataThreadCls)
            self.workers[handle] = worker
            worker.start()


class SessionManager:
    """The sessions of a wrapper, as ``self.session``: gives handles to sessions and takes them back."""

    def __init__(self, config: Mapping[str, str] | None = None, mode: str = THREAD_MODE, nums: int = 0) -> None:
        self.initialized = False
        self.code = 0
        self.wrapperConfig: Mapping[str, str] = config or {}
        self.handle_pool = Pool()

    def init_wrapper_config(self, config: Mapping[str, str] | None = None) -> None:
        self.wrapperConfig = config or {}

    def init_handle_pool(self, mode: str, nums: int | str, ReqThreadCls: type[StreamHandleThread]) -> None:
        """Start ``nums`` threads of that class, each behind a handle of its own."""
        if mode == PROCESS_MODE:
            log.warning("handle pools of processes are not supported: threads are used")
        self.handle_pool = ThreadPool(ReqThreadCls, 0, int(nums))
        self.initialized = True

    def get_session(self, handle: str) -> WorkerThread | None:
        return self.handle_pool.get_thread(handle)

    def get_idle_handle(self) -> str | None:
        """Take a handle that no session has; None where all have one."""
        if not self.initialized:
            log.error("there are no handles: call self.session.init_handle_pool in wrapperInit")
        found = self.handle_pool.get_idle_thread_handle()
        return None if found is None else found[0]

    def set_idle_session(self, handle: str) -> None:
        self.handle_pool.set_idle(handle)

    def reset_session(self, handle: str) -> None:
        self.handle_pool.reset_thread(handle)

    def push_back(self, handle: str) -> None:
        """Take a handle back, and drop what is queued for its session."""
        self.handle_pool.reset_thread(handle)
