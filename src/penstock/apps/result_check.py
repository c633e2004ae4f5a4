"""Check the results of requests by the schemas that their apps state, before they are stored."""

from __future__ import annotations

from typing import Any, Final

import msgspec
from msgspec import Raw

from penstock.apps.folder import AppsFolder
from penstock.errors import InvalidInput
from penstock.jobs.fields import APP_OWNER
from penstock.jobs.work import ClaimedJob
from penstock.models.checking import Checker

_MAX_DETAIL: Final = 1000  # characters


class ResultCheck:
    """Checks the results of the flows of the apps in a folder."""

    def __init__(self, folder: AppsFolder) -> None:
        self._folder = folder
        self._checkers: dict[str, tuple[dict[str, Any], Checker]] = {}  # by app; as many as there ever were apps

    def __call__(self, run: ClaimedJob, result: Raw) -> str | None:
        """Return why a result does not fit the schema of the app that the run is a request of, or None if it does."""
        if not run.owner_service.startswith(APP_OWNER):
            return None
        app = self._folder.apps.get(run.owner_service.removeprefix(APP_OWNER))
        manifest = None if app is None else app.manifest
        if manifest is None or manifest.result_schema is None:
            return None
        if run.model_profile.rpartition("@")[0] != manifest.flow_name:  # a flow that the app's flow calls
            return None
        try:
            self._checker(manifest.name, manifest.result_schema).check(
                msgspec.json.decode(result), prefix="result", json=bytes(result)
            )
        except InvalidInput as error:
            return f"the result does not fit result_schema of the app: {error.message}"[:_MAX_DETAIL]
        return None

    def _checker(self, app: str, schema: dict[str, Any]) -> Checker:
        known = self._checkers.get(app)
        if known is None or known[0] != schema:
            known = self._checkers[app] = (schema, Checker(schema, owner="app"))
        return known[1]
