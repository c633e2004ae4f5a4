"""Durable jobs."""

from penstock.postgres.migrations.plain_sql import run_beside

revision = "0001_jobs"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    run_beside(__file__)
