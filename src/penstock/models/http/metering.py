"""Record the usage of the calls that routes make."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from penstock.errors import PriceMissing
from penstock.models.accounting import use_of
from penstock.models.host.calls import LiveCall
from penstock.models.host.deployment import Deployment
from penstock.quotas.admission import Admission
from penstock.telemetry import metrics
from penstock.tenants.principal import Principal
from penstock.usage.live import LiveUsage
from penstock.usage.prices import Measured
from penstock.web.request import Request

USAGE_HEADER: Final = b"penstock-usage"
_OF_A_JOB: Final = "job"
_CALLS: Final = metrics.counter(
    "penstock_live_calls", "Live calls that a replica began, by tenant and outcome.", ["tenant", "outcome"]
)
_tenants: Final = metrics.FewValues()


@dataclass(slots=True, kw_only=True)
class Stated:
    """What only the caller of a model knows of a call's use; it may change until the call has ended."""

    session: bool = False  # its input comes in parts
    audio_us: int = 0  # microseconds of sound in its input
    bytes_in: int = 0  # of parts after the first


class Metering:
    """Records the usage of requests' calls, unless ``usage`` is None."""

    def __init__(self, usage: LiveUsage | None) -> None:
        self._usage = usage

    def require_room(self) -> None:
        """Raise Overloaded while the usage of another call could not be kept."""
        if self._usage is not None:
            self._usage.require_room()

    def require_price(self, deployment: Deployment) -> None:
        """Raise PriceMissing if calls of this model have no price."""
        name = deployment.model.name
        if self._usage is not None and self._usage.prices.find("", name, self._usage.day()) is None:
            raise PriceMissing(f"a quota of cost limits this call, and prices.toml has no price for the model {name}")

    def follow(
        self,
        request: Request,
        deployment: Deployment,
        call: LiveCall,
        admission: Admission | None = None,
        *,
        stated: Stated | None = None,
    ) -> None:
        """Record the usage of a call when it has ended, before its caller gets the result; settle its tokens.

        A worker that calls a model for a job (``Penstock-Usage: job``) reports the call when the job's attempt ends.
        """
        if of_a_job(request):
            return
        if admission is not None:
            admission.begin()
        stated = stated or Stated()
        call.done.add_done_callback(
            partial(_record, self._usage, request.principal, deployment, call, admission, stated)
        )


def of_a_job(request: Request) -> bool:
    """Return whether a worker of the operator calls the model for a job.

    Others cannot state it: their calls would be in no ledger and under no quota.
    """
    return request.header(USAGE_HEADER) == _OF_A_JOB and request.principal.operator


def _record(
    usage: LiveUsage | None,
    principal: Principal,
    deployment: Deployment,
    call: LiveCall,
    admission: Admission | None,
    stated: Stated,
    _done: Any,
) -> None:
    used = use_of(call, deployment)
    if admission is not None:
        admission.settle_tokens(0 if used is None else used.tokens)
    if used is None or usage is None:
        return
    outcome = "completed" if used.completed else "failed" if used.failed else "cancelled"
    _CALLS.labels(_tenants.of(principal.tenant_name), outcome).inc()
    usage.record(
        principal,
        model=deployment.model.name,
        version=used.version,
        failed=used.failed,
        measured=Measured(
            completed=int(used.completed),
            prompt_tokens=used.prompt_tokens,
            completion_tokens=used.completion_tokens,
            audio_us=stated.audio_us,
            model_us=used.model_us,
        ),
        sessions=int(stated.session),
        bytes_in=call.size + stated.bytes_in,
        bytes_out=used.bytes_out,
    )
