"""The Python client of Penstock: call models, submit jobs, read them, be a worker.

Needs a gateway's address, nothing else.
"""

from penstock.client.blocking import BlockingClient
from penstock.client.client import Client, JobFilters, JobOptions
from penstock.client.models import ModelEvent
from penstock.client.stream import Event, EventsLost
from penstock.client.transport import Unreachable
from penstock.client.views import Job, JobPage, JobSummary, MediaAnswer

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
    "MediaAnswer",
    "ModelEvent",
    "Unreachable",
]
