"""Check the input of jobs for known models and providers when they are submitted, before they run."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from datetime import date
from typing import Any

import msgspec
from msgspec import Struct

from penstock.errors import Forbidden, InvalidInput, PriceMissing, ScopeMissing
from penstock.failures import CallFailed
from penstock.jobs.job import JobSubmission
from penstock.models.accounting import OPENAI
from penstock.models.reader import Reader
from penstock.models.service import ModelService
from penstock.providers import job_inputs
from penstock.providers.profile import Catalogue, Kind, Profile
from penstock.tenants import scopes
from penstock.tenants.principal import Principal
from penstock.usage.prices import PriceList
from penstock.web.reading import decode

PREDICT = "predict"
COLLECTION = "collection"  # the task type of jobs on collections; this action may delete files too:
DELETE = "delete"
_any = msgspec.json.Decoder()


class _Deletion(Struct):
    """What matters here of a deletion in a collection."""

    files: Any = False


_deletion = msgspec.json.Decoder(_Deletion)


class InputCheck:
    """Refuses a job with an input that its model or built-in executor would refuse.

    A worker elsewhere may serve a model or profile that this gateway does not know, or not yet; such a job is accepted,
    and its worker checks it.
    """

    def __init__(
        self,
        models: ModelService,
        catalogue: Catalogue,
        *,
        prices: PriceList,
        today: Callable[[], date],
    ) -> None:
        self._models = models
        self._prices = prices
        self._today = today
        self._profiles = catalogue.profiles

    def names(self, task_type: str, sender: Principal) -> Collection[str]:
        """Return the model profiles that this gateway knows for a sender's jobs of a type."""
        if task_type == PREDICT:
            return [entry.name for entry in self._models.entries(reader_of(sender))]
        transcribes = task_type in job_inputs.TRANSCRIPTION_TASKS
        if not transcribes and task_type not in job_inputs.CHAT_TASKS:
            return ()
        return [name for name, profile in self._profiles.items() if profile.transcribes == transcribes]

    def problem(self, queue: tuple[str, str], sender: Principal) -> str | None:
        """Return why this gateway does not serve a queue, if the manifest of its model is wrong; for operators only."""
        task_type, model_profile = queue
        return self._models.problem_of(model_profile) if task_type == PREDICT and sender.operator else None

    def require_price(self, submission: JobSubmission, prefix: str, _sender: Principal) -> None:
        """Raise PriceMissing if a job may call a model or provider without a price.

        A job of a queue that only workers elsewhere serve is accepted: it is not known here what it calls.
        """
        for provider, model in self._calls_of(submission):
            if self._prices.find(provider, model, self._today()) is None:
                at = f" at the provider {provider}" if provider else ""
                what = f"the model {model}{at}" if model else f"the provider {provider}"
                raise PriceMissing(
                    f"{prefix}model_profile: a quota of cost limits this job, and prices.toml has no price for {what}"
                )

    def require_no_tokens(self, submission: JobSubmission, prefix: str, sender: Principal) -> None:
        """Raise Forbidden if a job may use tokens: what it uses is known only when it has ended."""
        if submission.task_type == PREDICT:
            entry = self._models.visible(submission.model_profile, reader_of(sender))
            counts = entry is not None and entry.versions[entry.default].model.manifest.runtime == OPENAI
        else:
            profile = self._profile_of(submission)
            counts = profile is not None and any(one.kind is not Kind.WHISPERX for one in profile.providers)
        if counts:
            raise Forbidden(
                f"{prefix}model_profile: a strict quota of tokens does not allow jobs of {submission.task_type}/"
                f"{submission.model_profile}, which use tokens: call the model live, or have the quota set to soft"
            )

    def _profile_of(self, submission: JobSubmission) -> Profile | None:
        known = submission.task_type in (*job_inputs.TRANSCRIPTION_TASKS, *job_inputs.CHAT_TASKS)
        return self._profiles.get(submission.model_profile) if known else None

    def _calls_of(self, submission: JobSubmission) -> Sequence[tuple[str, str]]:
        """Return the providers and models that a job may call, as the ledger names them."""
        if submission.task_type == PREDICT:
            return [("", submission.model_profile)]
        profile = self._profile_of(submission)
        return [] if profile is None else [(provider.name, provider.model) for provider in profile.providers]

    def __call__(self, submission: JobSubmission, prefix: str, sender: Principal) -> None:
        """Raise InvalidInput that names the field below ``prefix``, Forbidden for a model that the sender's key may not
        use, and ScopeMissing for a deletion of files that it does not allow."""
        if (submission.task_type, submission.model_profile) == (COLLECTION, DELETE):
            _check_deletion(submission, prefix, sender)
            return
        if submission.task_type == PREDICT:
            self._check_model(submission, prefix, sender)
            return
        profile = self._profiles.get(submission.model_profile)
        if profile is not None:
            try:
                _check_profile(submission, profile)
            except CallFailed as error:
                raise InvalidInput.of(f"{prefix}{error.field or 'input'}", error.message) from None

    def _check_model(self, submission: JobSubmission, prefix: str, sender: Principal) -> None:
        name, reader = submission.model_profile, reader_of(sender)
        if not reader.may_name(name):
            allowed = ", ".join(sorted(reader.models or ())) or "none"
            raise Forbidden(f"{prefix}model_profile: this key may not use the model {name}; it may use: {allowed}")
        entry = self._models.visible(name, reader)
        if entry is not None:
            given = bytes(submission.input)
            deployment = entry.versions[entry.default]
            value = decode(given, _any, prefix=f"{prefix}input")
            deployment.checker_of_jobs.check(value, prefix=f"{prefix}input", json=given)
            if b"blob:" in given or b"\\u" in given:
                for _ in deployment.media.uploads_in(value, prefix=f"{prefix}input"):
                    pass  # they are read when the job runs; here only their number and depth are checked


def reader_of(sender: Principal) -> Reader:
    """Return the models that a sender's jobs can run on: those of its tenant, as workers find them."""
    return Reader(tenant=sender.tenant_name, models=sender.models)


def _check_deletion(submission: JobSubmission, prefix: str, sender: Principal) -> None:
    """Raise ScopeMissing unless the sender may delete the files that the job would delete.

    Jobs of flows are not checked: a flow acts for its tenant. The worker checks everything else in the input.
    """
    if {scopes.FILES, scopes.OPERATOR} & sender.scopes:
        return
    try:
        files = decode(bytes(submission.input), _deletion).files
    except InvalidInput:  # it is not an object
        return
    if files:
        raise ScopeMissing(f"{prefix}input.files: deleting files needs the scope {scopes.FILES}")


def _check_profile(submission: JobSubmission, profile: Profile) -> None:
    if profile.transcribes and submission.task_type in job_inputs.TRANSCRIPTION_TASKS:
        job_inputs.transcription(bytes(submission.input), profile)
    elif not profile.transcribes and submission.task_type in job_inputs.CHAT_TASKS:
        job_inputs.chat(bytes(submission.input), profile)
