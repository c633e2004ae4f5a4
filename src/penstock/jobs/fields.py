"""The types of a job's fields, with their limits and, for the description of the API, their meaning."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from msgspec import Meta

# No control characters: they have no meaning in names, and PostgreSQL has no U+0000 at all.
PLAIN = r"^[^\x00-\x1f\x7f]*$(?!\n)"  # in Python, $ alone also matches before a line break at the end
Name = Annotated[str, Meta(min_length=1, max_length=200, pattern=PLAIN)]
Reference = Annotated[str, Meta(max_length=500, pattern=PLAIN)]
Tag = Annotated[str, Meta(min_length=1, max_length=100, pattern=PLAIN)]
Tags = Annotated[list[Tag], Meta(max_length=32)]
Priority = Annotated[int, Meta(ge=-100, le=100)]
MaxAttempts = Annotated[int, Meta(ge=1, le=100)]
TimeoutSeconds = Annotated[float, Meta(gt=0, le=7 * 24 * 3600)]
LeaseSeconds = Annotated[float, Meta(ge=1, le=24 * 3600)]
WaitSeconds = Annotated[float, Meta(ge=0, le=60)]
MAX_RETRY_AFTER_SECONDS = 7 * 24 * 3600  # seconds
RetryAfterSeconds = Annotated[float, Meta(ge=0, le=MAX_RETRY_AFTER_SECONDS)]
Epoch = Annotated[int, Meta(ge=1, le=2**63 - 1)]
Moment = Annotated[datetime, Meta(tz=True)]
Message = Annotated[str, Meta(max_length=10_000, pattern=r"^[^\x00]*$")]
APP_OWNER = "app/"  # the owner service of an app's requests, and of their jobs, begins with this
EntryNumber = Annotated[int, Meta(ge=0, le=2_000_000_000)]


# The same types with their meaning, for the description of the API.
OwnerService = Annotated[Name, Meta(description="The service on whose behalf the job runs.")]
OwnerRef = Annotated[Reference, Meta(description="The owner's own reference, such as an order's number.")]
UserId = Annotated[
    Annotated[str, Meta(max_length=200, pattern=PLAIN)],
    Meta(description="The end user on whose behalf the job runs; '': the one that Penstock-User names, if any."),
]
TaskType = Annotated[Name, Meta(description="The kind of work; with model_profile it names the queue.")]
ModelProfile = Annotated[Name, Meta(description="The name of the model or profile that does the work.")]
JobPriority = Annotated[Priority, Meta(description="Jobs with a higher priority run first.")]
Attempts = Annotated[MaxAttempts, Meta(description="The maximum number of attempts; null: PENSTOCK_MAX_ATTEMPTS.")]
RunAt = Annotated[Moment, Meta(description="Not before this time; null: at once.")]
AttemptSeconds = Annotated[TimeoutSeconds, Meta(description="Time limit of one attempt, in seconds; null: no limit.")]
MAX_TTL_SECONDS = 366 * 24 * 3600  # seconds
ExpiresAt = Annotated[
    Moment, Meta(description="A job that no worker has taken by then fails as `expired`; null: it waits for ever.")
]
TtlSeconds = Annotated[
    float,
    Meta(
        gt=0, le=MAX_TTL_SECONDS, description="As expires_at, in seconds from the job's creation; set only one of them."
    ),
]
IdempotencyKey = Annotated[
    Name, Meta(description="A repeated request of the same owner with the same key returns the same job.")
]
ConcurrencyKey = Annotated[
    Name, Meta(description="A rule of the queue limits how many jobs with the same key run at a time; null: no key.")
]
JobTags = Annotated[Tags, Meta(description="Words to find the job by.")]
WorkerId = Annotated[Name, Meta(description="The worker's name, for display.")]
TheEpoch = Annotated[Epoch, Meta(description="The epoch of the claim; it identifies the worker's lease.")]
Lease = Annotated[LeaseSeconds, Meta(description="The length of the lease, in seconds.")]
