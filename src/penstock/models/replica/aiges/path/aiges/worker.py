"""A thread per session, with a class of the wrapper's that infers."""

from __future__ import annotations

import queue
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

from aiges.replies import failed
from aiges.utils.log import log
from aiges.waiting import Inputs, Outputs, Reader

_TURN_SECONDS = 1.0  # after which an idle worker checks whether it has been stopped


class InferClass(ABC):
    """Infers for one session."""

    handle: str
    sid: str | None

    @abstractmethod
    def predict(self, *args: Any, **kwargs: Any) -> tuple[Any, bool]:
        """Infer for the request ``req``. Return the output, and whether it was the last of the session."""

    def setHandle(self, hdl: str) -> None:
        self.handle = hdl


class Worker(threading.Thread):
    """Takes the requests of one session from ``in_q`` and infers for each."""

    def __init__(
        self,
        name: str | None = None,
        _type: str = "thread",
        nums: int = 1,
        context: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(name=name, daemon=True)
        self.nums = nums
        self.context = context or {}
        self._reader = Reader(threading.Condition())
        self.in_q = Inputs(self._reader)
        self.out_q = Outputs(lambda: self.is_stopping)
        self.infer_class: Any = None
        self.infer_func: Callable[..., Any] | None = None
        self.callback_fn: Callable[..., Any] | None = None
        self.is_stopping = False

    def setDaemon(self, daemonic: bool) -> None:
        """Do nothing: a replica ends when its calls have ended, whatever its threads wait for."""

    def stop(self) -> None:
        self.is_stopping = True

    def register_infer_class(self, instance: Any) -> None:
        self.infer_class = instance

    def register_infer_func(self, infer: Callable[..., Any]) -> None:
        self.infer_func = infer

    def register_callback(self, cb: Callable[..., Any]) -> None:
        self.callback_fn = cb

    def setHandle(self, hdl: str) -> None:
        self.infer_class.setHandle(hdl)

    def create(self, params: Mapping[str, Any] | None = None) -> None:
        """Do nothing; wrappers may override it."""

    def run(self) -> None:
        try:
            self._infer()
        except Exception as error:  # noqa: BLE001 - the wrapper's code; it concerns this session only
            log.error("a worker has failed", exc_info=error)
            failed(str(getattr(self.infer_class, "sid", None) or ""), error)
        finally:
            self._reader.end()

    def _infer(self) -> None:
        while not self.is_stopping:
            try:
                request = self.in_q.get(timeout=_TURN_SECONDS)
            except queue.Empty:
                continue
            _output, done = self.infer_class.predict(req=request)
            if done:
                return
