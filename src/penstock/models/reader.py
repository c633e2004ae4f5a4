"""The models that a sender sees: its tenant's own, and those of the operator that are shared with it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from penstock.models.manifest import Model


@dataclass(frozen=True, slots=True, kw_only=True)
class Reader:
    """A sender for whom models are found: a tenant, or the operator (None), who sees only the operator's own.

    ``models`` are the names that a key may use; None allows all.
    """

    tenant: str | None = None
    models: frozenset[str] | None = None

    @property
    def owners(self) -> tuple[str | None, ...]:
        """The owners whose models it may see; where names are the same, the model of the earlier owner counts."""
        return (None,) if self.tenant is None else (self.tenant, None)

    def may_name(self, name: str) -> bool:
        return self.models is None or name in self.models

    def sees(self, model: Model) -> bool:
        """Return whether a model is visible."""
        if not self.may_name(model.name):
            return False
        if self.tenant is None or model.owner is not None:
            return model.owner == self.tenant
        return model.manifest.tenants is None or self.tenant in model.manifest.tenants


OPERATOR: Final = Reader()
