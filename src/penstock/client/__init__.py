"""The Python client of Penstock: call models, submit and read jobs, and work on jobs.

It needs only the address of a gateway.
"""

from penstock.client.blocking import BlockingClient
from penstock.client.client import Client
from penstock.client.jobs import JobFilters, JobOptions
from penstock.client.models import ModelEvent
from penstock.client.stream import Event, EventsLost
from penstock.client.transport import Unreachable
from penstock.client.views import Job, JobPage, JobSummary, MediaFile

__all__ = [
    "BlockingClient",
    "Client",
    "Event",
    "EventsLost",
    "Job",
    "JobFilters",
    "JobOptions",
    "JobPage",
    "JobSummary",
    "MediaFile",
    "ModelEvent",
    "Unreachable",
]
