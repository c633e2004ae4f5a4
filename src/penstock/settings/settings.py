"""The effective settings of one process, from all groups: read, checked, printed and masked together."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

from penstock.errors import FieldProblem, SettingsError
from penstock.settings import blobs, brokers, gateway, jobs, marketplace, providers, workers
from penstock.settings.apps import AppSettings
from penstock.settings.athena import AthenaSettings
from penstock.settings.blobs import BlobSettings
from penstock.settings.brokers import BrokerSettings
from penstock.settings.callbacks import CallbackSettings
from penstock.settings.database import DatabaseSettings
from penstock.settings.flows import FlowSettings
from penstock.settings.gateway import GatewaySettings
from penstock.settings.jobs import JobSettings
from penstock.settings.logs import LogSettings
from penstock.settings.marketplace import MarketplaceSettings
from penstock.settings.models import ModelSettings
from penstock.settings.printing import printable, secrets_in
from penstock.settings.providers import ProviderSettings
from penstock.settings.sidecar import SidecarSettings
from penstock.settings.source import DOTENV, environment, from_file
from penstock.settings.usage import UsageSettings
from penstock.settings.variable import Variable, variables
from penstock.settings.workers import WorkerSettings

# In the order of the documentation. A default may be derived from earlier variables.
GROUPS: Final = (
    GatewaySettings, DatabaseSettings, JobSettings, WorkerSettings, ModelSettings, FlowSettings, AppSettings,
    AthenaSettings, BlobSettings, ProviderSettings, CallbackSettings, MarketplaceSettings, UsageSettings,
    SidecarSettings, BrokerSettings, LogSettings,
)  # fmt: skip
VARIABLES: Final[Mapping[str, Variable]] = {
    name: variable for group in GROUPS for name, variable in variables(group).items()
}
_RELATIONS: Final = (
    *gateway.RELATIONS, *jobs.RELATIONS, *workers.RELATIONS, *blobs.RELATIONS, *providers.RELATIONS,
    *marketplace.RELATIONS, *brokers.RELATIONS,
)  # fmt: skip
# Variables that parents pass to their children; they are not settings.
_INTERNAL: Final = frozenset({"PENSTOCK_SUPERVISOR_PID", "PENSTOCK_MODEL", "PENSTOCK_MODEL_VERSION"})


@dataclass(frozen=True, kw_only=True, repr=False)
class Settings(
    GatewaySettings, DatabaseSettings, JobSettings, WorkerSettings, ModelSettings, FlowSettings, AppSettings,
    AthenaSettings, BlobSettings, ProviderSettings, CallbackSettings, MarketplaceSettings, UsageSettings,
    SidecarSettings, BrokerSettings, LogSettings,
):  # fmt: skip
    """The effective settings of one process."""

    stated: frozenset[str] = field(compare=False)  # the fields that were set; the others have their defaults

    def __repr__(self) -> str:
        return f"Settings({self.masked()})"

    @classmethod
    def descriptions(cls) -> dict[str, str]:
        """The description of each variable, by its name."""
        return {name.upper(): variable.meaning for name, variable in VARIABLES.items()}

    def masked(self) -> dict[str, str | int | bool | None]:
        """Each variable's effective value as it may be printed: secrets and passwords in URLs are masked."""
        return {name.upper(): printable(name, getattr(self, name)) for name in VARIABLES}

    def secret_values(self) -> frozenset[str]:
        """The values that must never appear in a log: the secrets, and the passwords inside URLs."""
        return frozenset(secrets_in(getattr(self, name) for name in VARIABLES))

    def replace(self, **changes: object) -> Self:
        """Return these settings with some fields changed; the changes are checked as usual."""
        if unknown := changes.keys() - VARIABLES.keys():
            raise TypeError(f"not settings: {', '.join(sorted(unknown))}")
        known = {name: getattr(self, name) for name in VARIABLES}
        return type(self)(**_checked(known | changes), stated=self.stated | changes.keys())


def load_settings(env_file: Path | None = DOTENV) -> Settings:
    """Return the settings of this process, from its environment and ``env_file``, which need not exist.

    Raises SettingsError, which lists all mistakes at once by the variables' names and contains no values.
    """
    try:
        found = {name.upper(): value for name, value in environment(env_file).items()}
    except (OSError, UnicodeDecodeError):
        raise SettingsError([FieldProblem(field=str(env_file), detail="cannot be read as KEY=value lines")]) from None
    stated = {name: found[name.upper()] for name in VARIABLES if found.get(name.upper())}
    return Settings(**_checked(stated), stated=frozenset(stated))


def misspelt(env_file: Path | None = DOTENV) -> dict[str, str]:
    """Return unknown names that are set, with suggestions: a misspelt name for the token would leave the API open."""
    known = set(Settings.descriptions())
    ours = [name for name in os.environ if name.startswith("PENSTOCK_") and name not in _INTERNAL]
    found: dict[str, str] = {}
    for name in {*ours, *(one.upper() for one in from_file(env_file))} - known:
        close = difflib.get_close_matches(name, known, n=1, cutoff=0.8)
        if close:
            found[name] = close[0]
    return found


def _checked(stated: Mapping[str, object]) -> dict[str, Any]:
    """Return a value for every field. Raises SettingsError with all mistakes."""
    known: dict[str, Any] = {}
    problems: list[FieldProblem] = []
    for name, variable in VARIABLES.items():
        given = stated.get(name)
        try:
            known[name] = variable.default_with(known) if given is None else variable.kind(given)
        except ValueError as error:
            problems.append(FieldProblem(field=name.upper(), detail=str(error)))
    for relation in _RELATIONS:
        if known.keys() >= set(relation.over):
            detail = relation.problem(*(known[name] for name in relation.over))
            if detail is not None:
                problems.append(FieldProblem(field=relation.blames.upper(), detail=detail))
    if problems:
        raise SettingsError(problems)
    return known
