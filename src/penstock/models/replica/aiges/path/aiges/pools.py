"""Pools of handles that share one model: requests of all sessions go into one queue, from which the model takes them.

Each request carries a context of its own, so that a result keeps the sid of the session that sent the request. Requests
that the model has not taken are bounded in bytes for each session.
"""

from __future__ import annotations

import multiprocessing
import os
import queue
import threading
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from typing import Any
from weakref import WeakSet

from aiges.replies import failed
from aiges.utils.log import log
from aiges.waiting import Inputs, Reader

_POOL_SIZE = 5
_served: WeakSet[queue.Queue[Any]] = WeakSet()  # queues of this process that a ModelProcess reads


class Context:
    """What a request belongs to, and its data."""

    def __init__(self) -> None:
        self.sid = ""
        self.params: Mapping[str, Any] = {}
        self.data: Any = None
        self.session_destroyed = False
        self.callback_handle = ""
        self._taken = threading.Event()

    def __getstate__(self) -> dict[str, Any]:
        """Return what another process gets, for wrappers whose queue leads to one."""
        return {name: value for name, value in vars(self).items() if name != "_taken"}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.__init__()  # type: ignore[misc]
        vars(self).update(state)

    def note_taken(self) -> None:
        """Note that the model has the request, so that the next one of its session may follow."""
        self._taken.set()

    def wait_taken(self) -> None:
        self._taken.wait()

    def set_data(self, data: Any) -> None:
        self.data = data

    def set_callback_handle(self, s: str) -> None:
        self.callback_handle = s

    def set_sid(self, sid: str) -> None:
        self.sid = sid

    def set_params(self, params: Mapping[str, Any]) -> None:
        self.params = params

    def set_destroyed(self) -> None:
        self.session_destroyed = True
        self._taken.set()

    def reset_ctx(self) -> None:
        self.__init__()  # type: ignore[misc]  # as new


class ReqHandleThread(threading.Thread):
    """One handle: passes the requests of its session on to the model."""

    def __init__(
        self, model_pipe_conn: Connection, shared_req_queue: Any, handle: str, callback_fn: Callable[..., Any]
    ) -> None:
        super().__init__(name=handle, daemon=True)
        self.model_pipe_conn = model_pipe_conn
        self.shared_req_queue = shared_req_queue
        self.handle = handle
        self.callback = callback_fn
        self.status = "idle"
        self.is_stopping = False
        self.input_queue = Inputs(Reader(threading.Condition()))
        self.ctx = Context()
        self._requests: WeakSet[Context] = WeakSet()  # of the session, as long as they are in use

    def set_busy(self) -> None:
        self.status = "busy"

    def set_idle(self) -> None:
        """Give the handle back: requests of its session that the model has not begun are not begun any more."""
        for request in list(self._requests):
            request.set_destroyed()
        self._requests = WeakSet()
        self.ctx = Context()
        self.input_queue.clear()
        self.status = "idle"

    def set_ctx(self, sid: str, params: Mapping[str, Any]) -> None:
        self.ctx.set_sid(sid)
        self.ctx.set_params(params)

    def send_to_input_queue(self, sid: str, req: Any) -> None:
        self.ctx.set_sid(sid)
        request = Context()
        request.sid, request.params, request.data = sid, self.ctx.params, req
        request.callback_handle = self.ctx.callback_handle
        self._requests.add(request)
        self.input_queue.put(request)

    def run(self) -> None:
        while not self.is_stopping:
            request = self.input_queue.get()
            self.shared_req_queue.put((self.handle, request))
            # The rest waits here, where it is bounded. Unknown is when a thread of the wrapper's own takes a request.
            if self.shared_req_queue in _served:
                request.wait_taken()
            del request

    def destroy(self) -> None:
        self.set_idle()


class RequestPool:
    """The handles of one model."""

    def __init__(self, shared_req_queue: Any, callback_fn: Callable[..., Any]) -> None:
        self.pool: dict[str, ReqHandleThread] = {}
        self.conns_map: dict[str, tuple[Connection, Connection]] = {}
        self.shared_req_queue = shared_req_queue
        self._lock = threading.Lock()
        self.init_threads(callback_fn=callback_fn)

    def init_threads(self, callback_fn: Callable[..., Any], pool_size: int = _POOL_SIZE) -> None:
        """Start ``pool_size`` handles more."""
        self.process_id = os.getpid()
        for number in range(len(self.pool), len(self.pool) + pool_size):
            left, right = multiprocessing.Pipe()
            handle = f"process-{self.process_id}-thread-{number}"
            thread = ReqHandleThread(left, self.shared_req_queue, handle, callback_fn=callback_fn)
            self.conns_map[handle] = (left, right)
            self.pool[handle] = thread
            thread.start()

    def get_idle_handle(self) -> str | None:
        with self._lock:
            for handle, thread in self.pool.items():
                if thread.status == "idle":
                    thread.set_busy()
                    return handle
        return None

    def set_idle_handle(self, handle: str) -> None:
        self.pool[handle].set_idle()

    def get_thread(self, handle: str) -> ReqHandleThread:
        return self.pool[handle]


class ModelProcess(threading.Thread):
    """The thread of the model. A wrapper overrides ``infer``, or registers a function for it."""

    def __init__(
        self, shared_req_queue: Any, result_conns_map: Mapping[str, Any], callback_fn: Callable[..., Any]
    ) -> None:
        super().__init__(daemon=True)
        self.shared_req_queue = shared_req_queue
        self.result_conns_map = result_conns_map
        self.is_stopping = False
        self.callback = callback_fn
        if isinstance(shared_req_queue, queue.Queue) and type(self).run is ModelProcess.run:
            _served.add(shared_req_queue)

    def setDaemon(self, daemonic: bool) -> None:
        """Do nothing: a replica ends when its calls have ended, whatever its threads wait for."""

    def register_infer_func(self, func: Callable[[Context, Callable[..., Any]], Any]) -> None:
        self.__dict__["infer"] = func

    def infer(self, ctx: Context, callback: Callable[..., Any]) -> Any:
        raise NotImplementedError("infer is not implemented: override it, or call register_infer_func")

    def run(self) -> None:
        while not self.is_stopping:
            handle, context = self.shared_req_queue.get()
            context.note_taken()
            if context.session_destroyed:
                log.info("the session of %s has ended: its request is not inferred", handle)
                continue
            try:
                self.infer(context, self.callback)
            except Exception as error:  # noqa: BLE001 - the wrapper's code; it concerns this session only
                log.error("inferring for %s has failed", handle, exc_info=error)
                failed(context.sid, error)
