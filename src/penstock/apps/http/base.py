"""What the routes of apps share."""

from __future__ import annotations

from typing import Final
from uuid import UUID

from penstock.web.route import PathParameter

APP: Final = PathParameter(name="app", description="the app's name", subject="app")
TASK: Final = PathParameter(name="task_id", type=UUID, description="the request's id", subject="run")
TAG: Final = "Apps"
