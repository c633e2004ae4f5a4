"""Jobs that run on a model are checked against its schema when they are submitted."""

from __future__ import annotations

import msgspec

from penstock.jobs.job import JobSubmission
from penstock.models.host.host import ModelHost
from penstock.web.reading import decode

TASK_TYPE = "predict"
_any = msgspec.json.Decoder()


class PredictCheck:
    """Refuses a ``predict`` job whose input its model would refuse.

    A model that this gateway does not know, or not yet, may be hosted by a worker elsewhere: such a job is accepted,
    and its worker checks it.
    """

    def __init__(self, host: ModelHost) -> None:
        self._host = host

    def __call__(self, submission: JobSubmission, prefix: str) -> None:
        """Raise InvalidInput that names the field below ``prefix``."""
        if submission.task_type != TASK_TYPE:
            return
        entry = self._host.entries.get(submission.model_profile)
        if entry is not None:
            checker = entry.versions[entry.default].checker
            checker.check(decode(bytes(submission.input), _any), prefix=f"{prefix}input")
