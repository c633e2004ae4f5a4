"""A small plugin for tests: it offers ``aiges.WrapperService`` by gRPC, and can misbehave on purpose.

python plugin.py [FAULT]
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from penstock.models.replica.aiges.messages import plugin_pb2 as messages

FAULT = sys.argv[1] if len(sys.argv) > 1 else ""
SCHEMA = {
    "meta": {"serviceId": "echo", "version": "v1", "echo": {"input": {"text": {"dataType": "text"}}, "accept": {}}},
    "schemainput": {
        "properties": {
            "parameter": {"properties": {"echo": {"properties": {"mode": {"type": "string", "maxLength": 20}}}}}
        }
    },
}


class Engine:
    def __init__(self) -> None:
        self.results: queue.Queue[messages.Response | None] = queue.Queue()
        self.config: dict[str, str] = {}
        self.sessions: dict[str, str] = {}  # tags by handles
        self.destroyed: list[str] = []
        self.health = health.HealthServicer()

    def init(self, request: messages.InitRequest, context: Any) -> messages.Ret:
        self.config = dict(request.config)
        return messages.Ret(ret=int(self.config.get("ret", "0")))

    def schema(self, request: messages.SvcId, context: Any) -> messages.Schema:
        if FAULT == "schema":
            return messages.Schema(data="{")
        if FAULT == "late schema" and not self.config:
            return messages.Schema()
        return messages.Schema(data=json.dumps(SCHEMA))

    def execute(self, request: messages.Request, context: Any) -> messages.Response:
        facts = {
            "params": dict(request.params),
            "data": [
                [one.key, one.data.decode(), one.len, one.type, one.status, dict(one.desc)] for one in request.list
            ],
            "config": self.config,
            "environment": {name: os.environ.get(name, "") for name in ("BASIC_PLUGIN", "PLUGIN_MIN_PORT")},
            "destroyed": self.destroyed,
            "process": os.getpid(),
        }
        mode = request.params["mode"]
        if mode == "ret":
            return messages.Response(ret=4001)
        if mode == "raise":
            raise ValueError("this is what went wrong")
        if mode == "exit":
            os._exit(7)
        if mode == "break":
            self.results.put(None)
        if mode == "unhealthy":
            self.health.set("plugin", health_pb2.HealthCheckResponse.NOT_SERVING)
        if mode in ("break", "unhealthy", "never"):
            return messages.Response()
        if mode == "stray":
            for tag in ("", "x", "penstock-0", "p" * 10_000):
                self.results.put(text_of(tag, "stray"))
        if mode == "late ret":
            self.results.put(messages.Response(tag=request.tag, ret=-3))
        elif mode == "kind":
            self.results.put(messages.Response(tag=request.tag, list=[messages.ResponseData(key="k", type=9)]))
        elif mode == "empty":
            self.results.put(messages.Response(tag=request.tag))
        elif mode == "huge":
            self.results.put(text_of(request.tag, "x" * 2**27))
        elif mode == "reply":
            return text_of("", json.dumps(facts))
        else:
            self.results.put(text_of(request.tag, json.dumps(facts)))
        if mode == "twice":
            self.results.put(text_of(request.tag, "again"))
        return messages.Response()

    def create(self, request: messages.CreateRequest, context: Any) -> messages.Handle:
        if request.params.get("mode") == "refuse":
            return messages.Handle(err_code=5)
        if request.params.get("mode") == "nothing":
            return messages.Handle()
        handle = f"handle-{len(self.sessions)}"
        self.sessions[handle] = handle if request.params.get("mode") == "by handle" else request.tag
        return messages.Handle(handle=handle)

    def write(self, request: messages.WriteMessage, context: Any) -> messages.Ret:
        for one in request.req.list:
            if one.data == b"bad":
                return messages.Ret(ret=6)
            answer = f"{request.sid} {one.data.decode()}"
            self.results.put(text_of(self.sessions[request.handle], answer, one.status))
        return messages.Ret()

    def destroy(self, request: messages.Handle, context: Any) -> messages.Ret:
        self.destroyed.append(request.handle)
        return messages.Ret(ret=9)

    def communicate(self, requests: Any, context: Any) -> Any:
        while (response := self.results.get()) is not None:
            yield response


def text_of(tag: str, text: str, status: int = 3) -> messages.Response:
    data = messages.ResponseData(key="echo", data=text.encode(), type=0, status=status, len=0, desc={"format": "json"})
    return messages.Response(tag=tag, list=[data])


def handlers(engine: Engine) -> grpc.GenericRpcHandler:
    def unary(method: Any, request: Any) -> Any:
        return grpc.unary_unary_rpc_method_handler(method, request.FromString, lambda one: one.SerializeToString())

    return grpc.method_handlers_generic_handler(
        "aiges.WrapperService",
        {
            "wrapperInit": unary(engine.init, messages.InitRequest),
            "wrapperSchema": unary(engine.schema, messages.SvcId),
            "wrapperOnceExec": unary(engine.execute, messages.Request),
            "wrapperCreate": unary(engine.create, messages.CreateRequest),
            "wrapperWrite": unary(engine.write, messages.WriteMessage),
            "wrapperDestroy": unary(engine.destroy, messages.Handle),
            "communicate": grpc.stream_stream_rpc_method_handler(
                engine.communicate, messages.Request.FromString, lambda one: one.SerializeToString()
            ),
        },
    )


def main() -> None:
    engine = Engine()
    server = grpc.server(ThreadPoolExecutor(20), options=[("grpc.max_receive_message_length", -1)])
    server.add_generic_rpc_handlers([handlers(engine)])
    if FAULT != "no health":
        status = (
            health_pb2.HealthCheckResponse.NOT_SERVING if FAULT == "ill" else health_pb2.HealthCheckResponse.SERVING
        )
        engine.health.set("plugin", status)
        health_pb2_grpc.add_HealthServicer_to_server(engine.health, server)
    port = server.add_insecure_port(f"127.0.0.1:{os.environ['PLUGIN_MIN_PORT']}")
    server.start()
    print("the plugin starts")
    print(f"1|1|tcp|127.0.0.1:{port}|grpc", flush=True)
    print("standard output", flush=True)
    print("standard error", file=sys.stderr, flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    match FAULT:
        case "garbage":
            sys.stdout.buffer.write(os.urandom(10_000) + b"\n")
            sys.exit(3)
        case "endless":
            while True:
                sys.stdout.write("x" * 1000)
        case "lines":
            while True:
                print("a line")
        case _ if "|" in FAULT:
            print(FAULT, flush=True)
            threading.Event().wait()
        case _:
            main()
