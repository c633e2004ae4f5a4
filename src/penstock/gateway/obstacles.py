"""Find what a pending job waits for outside the room of jobs: its model, its providers, and quotas."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

from penstock.gateway.inputs import PREDICT, reader_of
from penstock.jobs.job import Job
from penstock.jobs.why import Blocker, Reason
from penstock.models.http.views import summarised
from penstock.models.service import ModelService
from penstock.outbound.breaker import BreakerState
from penstock.providers import job_inputs
from penstock.providers.profile import Catalogue
from penstock.providers.status import ProvidersWatch
from penstock.quotas.service import QuotaService
from penstock.tenants.principal import Principal

_STATES: Final = {
    "loading": "is being loaded",
    "describing": "is being loaded for the first time",
    "unloaded": "is not loaded; the next call loads it",
    "unavailable": "cannot be loaded at present",
}


class Obstacles:
    """Finds out whether the model of a job is loaded in this gateway, which of its providers rest, and which quotas
    refuse the calls of the tenant's own workers."""

    def __init__(
        self, models: ModelService, catalogue: Catalogue, providers: ProvidersWatch, quotas: QuotaService
    ) -> None:
        self._quotas = quotas
        self._models = models
        self._profiles = catalogue.profiles
        self._providers = providers

    async def __call__(self, job: Job, sender: Principal) -> Sequence[Reason]:
        """Return what a pending job waits for, as far as the sender may see it."""
        if job.task_type == PREDICT:
            return [*self._model(job.model_profile, sender), *await self._used_up(job, sender)]
        if job.task_type in (*job_inputs.CHAT_TASKS, *job_inputs.TRANSCRIPTION_TASKS):
            return await self._resting(job.model_profile)
        return ()

    def _model(self, name: str, sender: Principal) -> list[Reason]:
        reader = reader_of(sender)
        entry = self._models.visible(name, reader)
        if entry is None:
            detail = f"this gateway has no model {name} for the tenant"
            return [Reason(code=Blocker.MODEL_NOT_LOADED, detail=detail)]
        model = summarised(entry, reader)
        if model.state == "ready":
            return []
        problem = f": {model.problem}" if model.problem else ""
        return [Reason(code=Blocker.MODEL_NOT_LOADED, detail=f"the model {name} {_STATES[model.state]}{problem}")]

    async def _used_up(self, job: Job, sender: Principal) -> list[Reason]:
        """Return the quotas of calls that are used up, for a job that waits for another attempt.

        The calls of an operator's workers are under no quota, and those of a tenant's own are live calls.
        """
        if not job.attempt or job.run_at is None:
            return []
        found = await self._quotas.quotas(sender.tenant)
        return [
            Reason(
                code=Blocker.QUOTA,
                detail=f"the quota {one.name} of {one.limit} is used up: calls by the tenant's own workers are refused",
                until=one.resets_at,
            )
            for one in found
            if one.limits_calls and not one.key and not one.user and (one.used or 0) >= one.limit
        ]

    async def _resting(self, profile_name: str) -> list[Reason]:
        profile = self._profiles.get(profile_name)
        if profile is None:
            return []
        names = [spec.name for spec in profile.providers]
        longest: dict[str, float] = {}
        for one in await self._providers.reports():
            if one.provider in names and one.report.breaker == BreakerState.OPEN.value:
                left = max(one.report.wait_seconds - one.age_seconds, 0.0)
                longest[one.provider] = max(longest.get(one.provider, 0.0), left)
        now = datetime.now(UTC)
        return [
            Reason(
                code=Blocker.PROVIDER_RESTING,
                detail=f"the provider {name} rests after failures: its breaker is open in a worker",
                until=now + timedelta(seconds=longest[name]),
            )
            for name in names
            if name in longest
        ]
