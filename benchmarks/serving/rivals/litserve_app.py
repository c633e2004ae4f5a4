"""LitServe with one worker, run in its own environment."""

import json
import os
import time
from collections.abc import Iterator

import litserve
from fastapi import Request
from pydantic import BaseModel


class Text(BaseModel):
    text: str
    n: int


class Number(BaseModel):
    n: int
    pause: float = 0.0


class Echo(litserve.LitAPI):
    def setup(self, device: str) -> None:
        pass

    def decode_request(self, request: Text) -> Text:
        return request

    def predict(self, given: Text) -> Text:
        return given

    def encode_response(self, output: Text) -> dict:
        return {"text": output.text, "n": output.n}


class Batch(litserve.LitAPI):
    def setup(self, device: str) -> None:
        pass

    def decode_request(self, request: Number) -> int:
        return request.n

    def predict(self, numbers: list[int]) -> list[int]:
        time.sleep(0.020 + 0.001 * len(numbers))
        return numbers

    def batch(self, inputs: list[int]) -> list[int]:
        return inputs

    def unbatch(self, output: list[int]) -> list[int]:
        return output

    def encode_response(self, output: int) -> dict:
        return {"n": output}


class Count(litserve.LitAPI):
    def setup(self, device: str) -> None:
        pass

    def decode_request(self, request: Number) -> Number:
        return request

    def predict(self, given: Number) -> Iterator[dict]:
        for number in range(given.n):
            if given.pause:
                time.sleep(given.pause)
            yield {"i": number, "at": time.monotonic()}

    def encode_response(self, outputs: Iterator[dict]):  # FastAPI would read an annotation as the response's type
        for output in outputs:
            yield "data: " + json.dumps(output) + "\n\n"


class Blob(litserve.LitAPI):
    def setup(self, device: str) -> None:
        pass

    def decode_request(self, request: Request) -> bytes:
        return request["file"].file.read()

    def predict(self, data: bytes) -> int:
        return len(data)

    def encode_response(self, output: int) -> dict:
        return {"size": output}


if __name__ == "__main__":
    server = litserve.LitServer(
        [
            Echo(api_path="/echo"),
            Batch(api_path="/batch", max_batch_size=16, batch_timeout=0.01),
            Count(api_path="/count", stream=True),
            Blob(api_path="/blob"),
        ],
        accelerator="cpu",
        workers_per_device=1,
        fast_queue=True,
        timeout=60,
    )
    server.run(port=int(os.environ["PORT"]), num_api_servers=1, generate_client_file=False, log_level="error")
