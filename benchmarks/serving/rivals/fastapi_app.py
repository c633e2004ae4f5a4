"""FastAPI in one process with its model, the usual first solution, run in its own environment."""

import asyncio
import hmac
import json
import os
import time
from collections.abc import AsyncIterator
from typing import Annotated

import uvicorn
from fastapi import Depends, FastAPI, Header, HTTPException, Request, UploadFile
from fastapi.responses import StreamingResponse
from prometheus_client import Counter, Histogram
from pydantic import BaseModel

TOKEN = "Bearer " + os.environ["TOKEN"]
CALLS = Counter("calls", "Calls.")
SECONDS = Histogram("seconds", "Seconds.")


def check(authorization: Annotated[str, Header()] = "") -> None:
    if not hmac.compare_digest(authorization, TOKEN):
        raise HTTPException(401)


app = FastAPI(dependencies=[Depends(check)])


class Text(BaseModel):
    text: str
    n: int


class Number(BaseModel):
    n: int
    pause: float = 0.0


@app.post("/echo")
async def echo(given: Text) -> Text:
    began = time.perf_counter()
    CALLS.inc()
    SECONDS.observe(time.perf_counter() - began)
    return given


@app.post("/count")
async def count(given: Number) -> StreamingResponse:
    async def chunks() -> AsyncIterator[str]:
        for number in range(given.n):
            if given.pause:
                await asyncio.sleep(given.pause)
            yield "data: " + json.dumps({"i": number, "at": time.monotonic()}) + "\n\n"

    return StreamingResponse(chunks(), media_type="text/event-stream")


@app.post("/blob")
async def blob(file: UploadFile) -> int:
    return len(await file.read())


@app.post("/raw")
async def raw(request: Request) -> int:
    return len(await request.body())


uvicorn.run(app, port=int(os.environ["PORT"]), access_log=False, log_level="error")
