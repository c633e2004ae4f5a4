"""Athena Serving: credentials of its clients."""

from penstock.postgres.migrations.plain_sql import run_beside

revision = "0012_athena"
down_revision = "0011_apps"
branch_labels = None
depends_on = None


def upgrade() -> None:
    run_beside(__file__)
