"""Flows: the history of runs, mail, timers, waits for events, maps, and the statements that park and wake runs."""

from penstock.postgres.migrations.plain_sql import run_beside

revision = "0008_flows"
down_revision = "0007_quotas"
branch_labels = None
depends_on = None


def upgrade() -> None:
    run_beside(__file__)
