"""The shares of devices that models state: together they must not exceed the device."""

from __future__ import annotations

from collections.abc import Iterable

from penstock.errors import InvalidInput
from penstock.models.manifest import Model


def check(model: Model, others: Iterable[Model]) -> None:
    """Check that a model fits on its device beside the others; a group takes as much as its largest member.

    Raises InvalidInput.
    """
    share = _share(model)
    if not share:
        return
    alone = 0.0
    groups: dict[str, float] = {}
    for one in [*others, model]:
        if one.manifest.device != model.manifest.device:
            continue
        if one.manifest.exclusive is None:
            alone += _share(one)
        else:
            groups[one.manifest.exclusive] = max(groups.get(one.manifest.exclusive, 0.0), _share(one))
    total = alone + sum(groups.values())
    if total > 1 + 1e-9:
        raise InvalidInput.of(
            "device_share", f"{model.manifest.device} has {max(0.0, 1 - total + share):.2f} left, of 1.0"
        )


def _share(model: Model) -> float:
    return (model.manifest.device_share or 0.0) * model.manifest.replicas
