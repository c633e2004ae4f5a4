"""The demonstration: 1,797 images as durable jobs on a model, two workers, one killed half way; nothing is lost.

    make demo        or        python -m examples.digits.demo

Starts Penstock with a fresh data folder, calls the model of ``examples/models/digits`` live, and then gives it jobs:
two workers host it, each in a replica of its own. At the end everything is read back from what is stored; the exit
status is 0 only if all of it is as it should be.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from sklearn.datasets import load_digits

from examples.digits.stage import LEASE_SECONDS, Stage, WorkerProcess
from examples.models.digits.digits import TRAINED_ON
from penstock import Category, Client, Job, JobFilter, Status

TASK_TYPE, MODEL = "predict", "digits"
_PATIENCE = 45.0  # seconds from the first submission until everything must be finished
_AT_ONCE = 32  # requests in flight while reading back


@dataclass(frozen=True, kw_only=True)
class Kill:
    """The end of a worker."""

    worker: WorkerProcess
    at: float  # epoch seconds
    held: int  # jobs that it was working on


async def main() -> int:
    console = Console(highlight=False, soft_wrap=True)
    images, labels = load_digits(return_X_y=True)
    total = len(images)
    console.print(f"Penstock demo: {total:,} handwritten digits, two workers, one of them killed half way.\n")
    async with Stage(models=["digits"]) as stage:
        console.print(f"Started Penstock and its PostgreSQL in {stage.start_seconds:.1f} s, data in {stage.folder}.")
        workers = [await stage.start_worker(f"digits-{number}") for number in (1, 2)]
        async with Client(stage.url, token=stage.token, owner_service="demo") as client:
            await call_live(client, images[0], console)
            await stage.until_ready(workers)
            console.print(f"Two workers wait for jobs; each trains its model on the first {TRAINED_ON} images.\n")
            begun = time.perf_counter()
            async with asyncio.TaskGroup() as together:
                together.create_task(show(client, total, console))
                ids = await submit(client, images)
                kill = await kill_one(stage, client, workers, total)
                console.print(f"Killed {kill.worker.worker_id} (SIGKILL) while it held {kill.held} jobs.")
            elapsed = time.perf_counter() - begun
            jobs = await read_back(client, ids)
            recorded = await stored_events(client, ids)
        sound = report(console, jobs, recorded, labels, elapsed, kill)
    if stage.complaints:
        console.print(f"Not everything stopped in order: {'; '.join(stage.complaints)}")
    return 0 if sound and not stage.complaints else 1


async def call_live(client: Client, image: Sequence[float], console: Console) -> None:
    """Call the model twice: the first call loads it, and the second one is timed."""
    begun = time.perf_counter()
    await client.predict(MODEL, {"image": rows(image)})
    loaded = time.perf_counter()
    answer = await client.predict(MODEL, {"image": rows(image)})
    answered = time.perf_counter()
    console.print(
        f"A live call reads a {answer['digit']} in {1000 * (answered - loaded):.1f} ms"
        f" (the first one, which loaded the model, took {loaded - begun:.1f} s)."
    )


async def submit(client: Client, images: Sequence[Sequence[float]]) -> list[UUID]:
    """Submit every image as a job, in one transaction. Return the ids of the jobs in the order of the images."""
    created = await client.submit_many(
        client.job(TASK_TYPE, MODEL, {"image": rows(image)}, owner_ref=f"image/{index}")
        for index, image in enumerate(images)
    )
    return [job.id for job in created]


def rows(image: Sequence[float]) -> list[list[float]]:
    """Return 64 numbers as 8 rows of 8."""
    return [[float(value) for value in image[row * 8 : row * 8 + 8]] for row in range(8)]


async def kill_one(stage: Stage, client: Client, workers: Sequence[WorkerProcess], total: int) -> Kill:
    """Kill a worker with SIGKILL half way, at a moment when it holds jobs.

    The worker is frozen first to check what it holds: a kill between two batches would prove nothing.
    """
    async with asyncio.timeout(_PATIENCE):
        while await completed(client) * 2 < total:
            await asyncio.sleep(0.01)
        while True:
            for worker in workers:
                stage.freeze(worker)
                held = await client.list(JobFilter(status=[Status.RUNNING], worker_id=worker.worker_id), limit=500)
                if held.jobs or await completed(client) == total:
                    await stage.kill(worker)
                    return Kill(worker=worker, at=time.time(), held=len(held.jobs))
                stage.thaw(worker)


async def completed(client: Client) -> int:
    """Return how many jobs are done."""
    return (await client.stats()).totals.completed


async def show(client: Client, total: int, console: Console) -> None:
    """Show a progress bar on a terminal, or a line now and then elsewhere, until everything is finished."""
    columns = (TextColumn("Classified"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        bar = progress.add_task("", total=total)
        done, said = 0, -1
        async with asyncio.timeout(_PATIENCE):
            while done < total:
                done = await completed(client)
                progress.update(bar, completed=done)
                if not console.is_terminal and done * 4 // total > said:
                    said = done * 4 // total
                    console.print(f"Classified {done:,} of {total:,}")
                await asyncio.sleep(0.02)


async def read_back(client: Client, ids: Sequence[UUID]) -> list[Job]:
    """Return every stored job, with its result and its attempts."""
    gate = asyncio.Semaphore(_AT_ONCE)

    async def one(job_id: UUID) -> Job:
        async with gate:
            return await client.get(job_id)

    return await asyncio.gather(*(one(job_id) for job_id in ids))


async def stored_events(client: Client, ids: Sequence[UUID]) -> dict[UUID, list[tuple[str, int]]]:
    """Return all stored events of each job as (type, epoch).

    The stream never ends by itself; one more job, created after all the others have finished, marks its end here.
    """
    mark = await client.submit("mark", "none")
    recorded: dict[UUID, list[tuple[str, int]]] = {job_id: [] for job_id in ids}
    async with asyncio.timeout(_PATIENCE):
        async for event in client.events(after="0-0-0"):
            if event.job_id == mark.id:
                break
            if event.job_id in recorded:
                recorded[event.job_id].append((event.type, int(event.data.get("epoch", 0))))
    await client.cancel(mark.id)
    return recorded


def report(
    console: Console,
    jobs: Sequence[Job],
    recorded: dict[UUID, list[tuple[str, int]]],
    labels: Sequence[int],
    elapsed: float,
    kill: Kill,
) -> bool:
    """Print what is stored, and whether all of it is as it should be."""
    states = Counter(job.status.value for job in jobs)
    once = sum(completed_once(job, recorded[job.id]) for job in jobs)
    rescued = [job for job in jobs if any(a.error.category is Category.WORKER_LOST for a in job.attempts)]
    new = [(digit(job), int(label)) for job, label in list(zip(jobs, labels, strict=True))[TRAINED_ON:]]
    right = sum(found == label for found, label in new)
    waits = sorted((job.finished_at - job.created_at).total_seconds() for job in jobs if job.finished_at)
    checks = {
        f"{states['completed']:,} of {len(jobs):,} completed": states == {"completed": len(jobs)},
        f"{once:,} of {len(jobs):,} exactly once (one result, under the newest epoch)": once == len(jobs),
        f"Accuracy {right / len(new):.1%} on {len(new)} images that the model had not seen": right / len(new) > 0.9,
    }
    console.print()
    for text, holds in checks.items():
        console.print(f"{'yes' if holds else 'NO '}  {text}")
    median, slowest = waits[len(waits) // 2], waits[len(waits) * 99 // 100]
    console.print(
        f"\n     {len(jobs) / elapsed:,.0f} jobs/s over HTTP, {elapsed:.1f} s in all, the kill included"
        f"\n     Submit to result, all images submitted at once: p50 {median:.2f} s, p99 {slowest:.2f} s"
        f"\n     {cost(jobs, rescued, kill)}"
    )
    return all(checks.values())


def completed_once(job: Job, events: Sequence[tuple[str, int]]) -> bool:
    """Return whether a job has one completion, under its newest lease, and a record of each lost lease."""
    started = [epoch for kind, epoch in events if kind == "job.started"]
    completed = [epoch for kind, epoch in events if kind == "job.completed"]
    return (
        job.status is Status.COMPLETED
        and job.result is not None
        and len(completed) == 1
        and completed == [max(started, default=0)]
        and len(started) == len(set(started)) == job.attempt == len(job.attempts) + 1
    )


def digit(job: Job) -> int:
    """Return the digit in a job's result."""
    return int(job.result["digit"]) if job.result is not None else -1


def cost(jobs: Sequence[Job], rescued: Sequence[Job], kill: Kill) -> str:
    """Describe the cost of the kill: the jobs that ran again, and the additional time."""
    name = kill.worker.worker_id
    if not rescued:
        return f"The kill of {name} cost nothing: it held no job at that moment"
    again = {job.id for job in rescued}
    others = max(job.finished_at.timestamp() for job in jobs if job.id not in again and job.finished_at)
    last = max(job.finished_at.timestamp() for job in rescued if job.finished_at)
    extra = max(0.0, last - max(others, kill.at))
    return (
        f"The kill of {name} cost {len(rescued)} jobs a second attempt and {extra:.1f} s more"
        f" (its leases of {LEASE_SECONDS:g} s had to expire)"
    )


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
