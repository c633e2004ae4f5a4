"""A worker that reads handwritten digits: trains a classifier at start, then classifies whatever is claimed together.

    python examples/digits/worker.py

Input of a job: ``{"image": [[0.0, …, 16.0], …]}``, 8 rows of 8 grey values. Result: ``{"digit": 7}``.
Environment: PENSTOCK_URL, AI_SERVICE_TOKEN, WORKER_ID, LEASE_SECONDS.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from datetime import timedelta

import msgspec
import numpy as np
from sklearn.datasets import load_digits
from sklearn.svm import SVC

from penstock import Batched, ClaimedJob, Client, ExecutionError

TASK_TYPE, MODEL_PROFILE = "classify", "digits-svc"
TRAINED_ON = 898  # the first half of the images; the others are new to the model


class Digit(msgspec.Struct):
    """A job's input."""

    image: list[list[float]]


def train() -> SVC:
    """The model: a support vector machine that has seen the first half of scikit-learn's digits."""
    digits = load_digits()
    return SVC(gamma=0.001).fit(digits.data[:TRAINED_ON], digits.target[:TRAINED_ON])


def pixels(job: ClaimedJob) -> np.ndarray | ExecutionError:
    """The image of a job as the 64 numbers that the model reads, or what is wrong with it."""
    try:
        image = np.array(msgspec.json.decode(job.input, type=Digit).image)
    except (msgspec.MsgspecError, ValueError) as error:
        return ExecutionError("bad_input", f"input: {error}")
    if image.shape != (8, 8):
        return ExecutionError("bad_input", "input.image: must be 8 rows of 8 numbers")
    return image.reshape(64)


async def main() -> None:
    model = train()

    async def classify(jobs: Sequence[ClaimedJob]) -> Sequence[object]:
        images = [pixels(job) for job in jobs]
        sound = [image for image in images if not isinstance(image, ExecutionError)]
        found = iter(await asyncio.to_thread(model.predict, sound) if sound else [])
        return [image if isinstance(image, ExecutionError) else {"digit": int(next(found))} for image in images]

    url = os.environ.get("PENSTOCK_URL", "http://127.0.0.1:8080")
    worker_id = os.environ.get("WORKER_ID", f"digits-{os.getpid()}")
    print(f"{worker_id} takes {TASK_TYPE}/{MODEL_PROFILE} jobs from {url}", flush=True)
    async with Client(url, token=os.environ.get("AI_SERVICE_TOKEN")) as client:
        await client.work(
            Batched(classify, size=32),
            worker_id=worker_id,
            task_types=[TASK_TYPE],
            model_profiles=[MODEL_PROFILE],
            limit=64,
            lease=timedelta(seconds=float(os.environ.get("LEASE_SECONDS", "30"))),
        )


if __name__ == "__main__":
    asyncio.run(main())
