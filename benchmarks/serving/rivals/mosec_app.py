"""mosec with one worker per route, run in its own environment."""

import time
from typing import Any

import msgspec
from mosec import Runtime, Server, SSEWorker, ValidationError, Worker


class Text(msgspec.Struct):
    text: str
    n: int


class Number(msgspec.Struct):
    n: int
    pause: float = 0.0


class Echo(Worker):
    def deserialize(self, data: bytes) -> Any:
        try:
            return msgspec.json.decode(data, type=Text)
        except msgspec.ValidationError as error:
            raise ValidationError(str(error)) from error

    def serialize(self, data: Any) -> bytes:
        return msgspec.json.encode(data)

    def forward(self, data: Any) -> Any:
        return data


class Batch(Worker):
    def deserialize(self, data: bytes) -> Any:
        return msgspec.json.decode(data, type=Number)

    def serialize(self, data: Any) -> bytes:
        return msgspec.json.encode(data)

    def forward(self, data: list[Any]) -> list[Any]:
        time.sleep(0.020 + 0.001 * len(data))
        return data


class Count(SSEWorker):
    def deserialize(self, data: bytes) -> Any:
        return msgspec.json.decode(data, type=Number)

    def forward(self, data: Any) -> Any:
        given = data[0] if isinstance(data, list) else data
        for number in range(given.n):
            if given.pause:
                time.sleep(given.pause)
            self.send_stream_event('{"i":%d,"at":%r}' % (number, time.monotonic()), index=0)
        return [None] if isinstance(data, list) else None


class Raw(Worker):
    def deserialize(self, data: bytes) -> Any:
        return data

    def serialize(self, data: Any) -> bytes:
        return msgspec.json.encode(data)

    def forward(self, data: Any) -> Any:
        return len(data)


if __name__ == "__main__":
    server = Server()
    server.register_runtime(
        {
            "/echo": [Runtime(Echo, num=1)],
            "/batch": [Runtime(Batch, num=1, max_batch_size=16, max_wait_time=10)],
            "/count": [Runtime(Count, num=1, timeout=60)],
            "/raw": [Runtime(Raw, num=1)],
        }
    )
    server.run()
