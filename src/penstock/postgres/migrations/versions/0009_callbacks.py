"""Callbacks: endpoints of tenants, deliveries of events to them, and how far the events have become deliveries."""

from penstock.postgres.migrations.plain_sql import run_beside

revision = "0009_callbacks"
down_revision = "0008_flows"
branch_labels = None
depends_on = None


def upgrade() -> None:
    run_beside(__file__)
